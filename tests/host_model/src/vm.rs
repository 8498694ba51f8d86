//! One virtual machine: the shipped wasm in Wasmtime, between a [`Host`] and the caller of
//! its callbacks.
//!
//! The wasm is compiled once for all tests. Each callback gets so much fuel: one that takes
//! more holds the worker too long (invariant 8), measured in instructions, so the same on
//! every machine. A trap ends the machine, with the filter's own words.

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::OnceLock;

use wasmtime::{Config, Engine, Instance, Linker, Module, Store, Val};

use super::abi::Action;
use super::host::{Answer, ContextState, Host, KONG_PSEUDO_HEADERS, Step};
use super::imports;
use super::node::{Profile, Random, SharedNode};

/// Instructions that one callback may take (measured: a slice of 12 rounds of bcrypt takes
/// 9.3 million, both signatures take 8, a caller's token with ES256 13).
const FUEL_PER_CALLBACK: u64 = 20_000_000;

/// The same for callbacks that read the signing key, once for each root context (24 million,
/// most of it for a table of the curve, and one signature).
const FUEL_TO_BEGIN: u64 = 40_000_000;

/// The address range of the stack, without its first frames: the first mebibyte, and it grows
/// down.
const STACK: Range<usize> = 0..(1 << 20) - 256;
/// The stack is painted with this before it is used.
const UNUSED: u8 = 0xaa;

/// The machine is over: the words of the filter or the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trapped(pub String);

type Outcome<T> = Result<T, Trapped>;

pub struct Vm {
    store: Store<Host>,
    instance: Instance,
    /// The root contexts that had a request.
    begun: HashSet<u32>,
    /// Instructions that one callback may take.
    pub fuel: u64,
    /// Ends the machine in the callback of this number, after so many instructions.
    pub ends_in: Option<(u64, u64)>,
    /// The number of callbacks so far.
    pub callbacks: u64,
    /// The most instructions that a callback took, by the callback's name.
    pub spent: BTreeMap<&'static str, u64>,
    pub trapped: Option<Trapped>,
}

/// The wasm under test, and its origin.
pub fn wasm() -> &'static (Engine, Module) {
    static WASM: OnceLock<(Engine, Module)> = OnceLock::new();
    WASM.get_or_init(|| {
        let path = wasm_path();
        let bytes = std::fs::read(&path).unwrap_or_else(|fault| {
            panic!(
                "{}: {fault}\nthe host model runs the built filter: scripts/build-wasm.sh \
                 makes it, or APIKEYS_WASM names another",
                path.display()
            )
        });
        let mut config = Config::new();
        config.consume_fuel(true);
        let engine = Engine::new(&config).unwrap();
        let module = Module::new(&engine, bytes).unwrap();
        (engine, module)
    })
}

fn wasm_path() -> PathBuf {
    if let Some(path) = std::env::var_os("APIKEYS_WASM") {
        return path.into();
    }
    let root = test_kit::repository::root().to_path_buf();
    let target = std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
    root.join(target).join("wasm/apikey_jwt_exchange.wasm")
}

impl Vm {
    /// A machine with an initialised filter.
    pub fn start(node: SharedNode, random: Random) -> Self {
        let (engine, module) = wasm();
        let mut linker = Linker::new(engine);
        imports::link(&mut linker).unwrap();
        // Functions that this model lacks: gRPC, queues, foreign functions.
        linker.define_unknown_imports_as_traps(module).unwrap();
        let mut store = Store::new(engine, Host::new(node, random));
        store.set_fuel(FUEL_PER_CALLBACK).unwrap();
        let instance = linker.instantiate(&mut store, module).unwrap();
        let mut vm = Self {
            store,
            instance,
            begun: HashSet::new(),
            fuel: FUEL_PER_CALLBACK,
            ends_in: None,
            callbacks: 0,
            spent: BTreeMap::new(),
            trapped: None,
        };
        vm.call(0, Step::Other, "_initialize", &[]).unwrap();
        vm.memory()[STACK].fill(UNUSED);
        vm
    }

    pub fn host(&mut self) -> &mut Host {
        self.store.data_mut()
    }

    /// Bytes of linear memory, which never shrinks.
    pub fn memory_bytes(&mut self) -> usize {
        let memory = self.instance.get_memory(&mut self.store, "memory");
        memory.unwrap().data_size(&self.store)
    }

    /// The present linear memory: stack, statics and heap.
    pub fn memory(&mut self) -> &mut [u8] {
        let memory = self.instance.get_memory(&mut self.store, "memory");
        memory.unwrap().data_mut(&mut self.store)
    }

    /// The part of the stack that was used, from its deepest byte on.
    pub fn used_stack(&mut self) -> &[u8] {
        let stack = &self.memory()[STACK];
        let deepest = stack.iter().position(|byte| *byte != UNUSED);
        &stack[deepest.unwrap_or(stack.len())..]
    }

    /// Makes a root context; false if the filter refuses its configuration.
    pub fn configure(&mut self, configuration: &[u8]) -> Outcome<(u32, bool)> {
        let root = self.new_context(0);
        let size = number(configuration.len());
        self.host()
            .configurations
            .insert(root, configuration.to_vec());
        self.call(root, Step::Other, "proxy_on_context_create", &[id(root), 0])?;
        let started = self.call(root, Step::VmStart, "proxy_on_vm_start", &[id(root), 0])?;
        let configured = self.call(
            root,
            Step::Configure,
            "proxy_on_configure",
            &[id(root), size],
        )?;
        Ok((root, started != 0 && configured != 0))
    }

    /// A root context's tick; none if it set no period.
    pub fn tick(&mut self, root: u32) -> Outcome<()> {
        if !self.host().tick_periods_ms.contains_key(&root) {
            return Ok(());
        }
        self.call(root, Step::Tick, "proxy_on_tick", &[id(root)])
            .map(|_| ())
    }

    pub fn new_request(&mut self, root: u32, state: ContextState) -> Outcome<u32> {
        let context = self.new_context(root);
        self.host()
            .contexts
            .insert(context, ContextState { root, ..state });
        let arguments = [id(context), id(root)];
        self.call(context, Step::Other, "proxy_on_context_create", &arguments)?;
        Ok(context)
    }

    pub fn request_headers(&mut self, context: u32, has_body: bool) -> Outcome<Action> {
        let mut count = self.host().contexts[&context].request_headers.len();
        if self.host().profile == Profile::Kong {
            count -= KONG_PSEUDO_HEADERS.min(count);
        }
        let ends = i32::from(self.host().end_of_stream(has_body));
        let arguments = [id(context), number(count), ends];
        let callback = "proxy_on_request_headers";
        self.call(context, Step::RequestHeaders, callback, &arguments)
            .map(action)
    }

    /// Delivers another part of the body; it may be the last.
    pub fn request_body(&mut self, context: u32, bytes: &[u8], last: bool) -> Outcome<Action> {
        let state = self.host().contexts.get_mut(&context).unwrap();
        state.request_body.extend(bytes);
        let arguments = [
            id(context),
            number(state.request_body.len()),
            i32::from(last),
        ];
        let callback = "proxy_on_request_body";
        self.call(context, Step::RequestBody, callback, &arguments)
            .map(action)
    }

    pub fn call_response(&mut self, context: u32, token: u32, answer: Answer) -> Outcome<()> {
        let (headers, body) = match &answer {
            Answer::Response { headers, body } => (headers.len(), body.len()),
            Answer::Failed(_) => (0, 0),
        };
        // A root context is its own root.
        let root = match self.host().contexts[&context].root {
            0 => context,
            root => root,
        };
        self.host().answer = Some(answer);
        let arguments = [id(root), id(token), number(headers), number(body), 0];
        let outcome = self.call(
            context,
            Step::CallResponse,
            "proxy_on_http_call_response",
            &arguments,
        );
        self.host().answer = None;
        outcome.map(|_| ())
    }

    /// The request is over: done, log, delete. Its callouts are over as well.
    pub fn end_request(&mut self, context: u32) -> Outcome<()> {
        let in_flight = &mut self.host().in_flight;
        in_flight.retain(|_, callout| callout.context != context);
        for callback in ["proxy_on_done", "proxy_on_log", "proxy_on_delete"] {
            self.call(context, Step::Other, callback, &[id(context)])?;
        }
        Ok(())
    }

    fn new_context(&mut self, root: u32) -> u32 {
        let context = self.host().node.borrow_mut().next_id();
        let state = ContextState {
            root,
            ..ContextState::default()
        };
        self.host().contexts.insert(context, state);
        context
    }

    /// Calls a callback; one without a result gives 0.
    fn call(
        &mut self,
        context: u32,
        step: Step,
        name: &'static str,
        arguments: &[i32],
    ) -> Outcome<i32> {
        if let Some(trapped) = &self.trapped {
            return Err(trapped.clone());
        }
        self.host().context = context;
        self.host().step = step;
        let root = self
            .host()
            .contexts
            .get(&context)
            .map_or(0, |known| known.root);
        let first = step == Step::RequestHeaders && self.begun.insert(root);
        let begins = first || step == Step::Configure;
        let mut fuel = if begins { FUEL_TO_BEGIN } else { self.fuel };
        self.callbacks += 1;
        if let Some((_, instructions)) = self.ends_in.take_if(|(at, _)| *at == self.callbacks) {
            fuel = fuel.min(instructions);
        }
        self.store.set_fuel(fuel).unwrap();
        let function = self.instance.get_func(&mut self.store, name);
        let function = function.unwrap_or_else(|| panic!("the filter has no {name}"));
        let arguments: Vec<Val> = arguments.iter().copied().map(Val::I32).collect();
        let mut results = vec![Val::I32(0); function.ty(&self.store).results().len()];
        let called = function.call(&mut self.store, &arguments, &mut results);
        if !begins {
            let spent = fuel - self.store.get_fuel().unwrap();
            let most = self.spent.entry(name).or_default();
            *most = spent.max(*most);
        }
        if let Err(fault) = called {
            let said = self.host().node.borrow().logs.last().cloned();
            let said = said.unwrap_or_default();
            let trapped = Trapped(format!("{name}: {} (last log: {said})", fault.root_cause()));
            self.host()
                .node
                .borrow_mut()
                .log(format!("[trap] {}", trapped.0));
            self.trapped = Some(trapped.clone());
            return Err(trapped);
        }
        Ok(results.first().and_then(Val::i32).unwrap_or(0))
    }
}

fn action(given: i32) -> Action {
    match given {
        0 => Action::Continue,
        _ => Action::Pause,
    }
}

fn id(context: u32) -> i32 {
    context.cast_signed()
}

fn number(count: usize) -> i32 {
    i32::try_from(count).unwrap()
}
