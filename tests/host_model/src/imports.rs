//! The imports of the wasm, each linked to its method of [`Host`], and the list of
//! those that both hosts provide.

use wasmtime::{Caller, Extern, Linker, Memory};

use super::abi::{self, HostResult, Refusal, Status};
use super::host::{Host, LocalResponse};
use super::node::Sent;

/// The functions of proxy-wasm that both hosts provide: those of `proxy-wasm-cpp-host`
/// (`include/proxy-wasm/exports.h`, for ABI 0.2.1) that `ngx_wasm_module` has too
/// (`ngx_proxy_wasm_host.c`).
pub const BOTH_HOSTS_ENV: [&str; 37] = [
    "proxy_log",
    "proxy_get_log_level",
    "proxy_get_status",
    "proxy_get_current_time_nanoseconds",
    "proxy_set_effective_context",
    "proxy_done",
    "proxy_set_tick_period_milliseconds",
    "proxy_get_buffer_bytes",
    "proxy_set_buffer_bytes",
    "proxy_get_header_map_pairs",
    "proxy_get_header_map_value",
    "proxy_set_header_map_pairs",
    "proxy_add_header_map_value",
    "proxy_replace_header_map_value",
    "proxy_remove_header_map_value",
    "proxy_get_property",
    "proxy_set_property",
    "proxy_continue_stream",
    "proxy_close_stream",
    "proxy_send_local_response",
    "proxy_http_call",
    "proxy_grpc_call",
    "proxy_grpc_stream",
    "proxy_grpc_send",
    "proxy_grpc_cancel",
    "proxy_grpc_close",
    "proxy_get_shared_data",
    "proxy_set_shared_data",
    "proxy_register_shared_queue",
    "proxy_resolve_shared_queue",
    "proxy_enqueue_shared_queue",
    "proxy_dequeue_shared_queue",
    "proxy_define_metric",
    "proxy_get_metric",
    "proxy_record_metric",
    "proxy_increment_metric",
    "proxy_call_foreign_function",
];

/// The functions of WASI that both provide, under `wasi_snapshot_preview1`.
pub const BOTH_HOSTS_WASI: [&str; 15] = [
    "args_get",
    "args_sizes_get",
    "clock_time_get",
    "environ_get",
    "environ_sizes_get",
    "fd_close",
    "fd_fdstat_get",
    "fd_prestat_dir_name",
    "fd_prestat_get",
    "fd_read",
    "fd_seek",
    "fd_write",
    "path_open",
    "proc_exit",
    "random_get",
];

const ENV: &str = "env";
const WASI: &str = "wasi_snapshot_preview1";

type Called<'a> = Caller<'a, Host>;
type Number = wasmtime::Result<i32>;

pub fn link(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    link_basics(linker)?;
    link_maps(linker)?;
    link_requests(linker)?;
    link_shared_data(linker)?;
    link_metrics(linker)?;
    link_wasi(linker)
}

fn link_basics(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    linker.func_wrap(
        ENV,
        "proxy_log",
        |mut c: Called, level: i32, at: i32, length: i32| {
            let message = read(&mut c, at, length)?;
            c.data_mut().log(level, &message);
            Number::Ok(0)
        },
    )?;
    linker.func_wrap(
        ENV,
        "proxy_get_current_time_nanoseconds",
        |mut c: Called, to: i32| match c.data().current_time_ns() {
            Ok(time) => write(&mut c, to, &time.to_le_bytes()).map(|()| 0),
            Err(refusal) => status(Err(refusal)),
        },
    )?;
    linker.func_wrap(
        ENV,
        "proxy_set_tick_period_milliseconds",
        |mut c: Called, period: i32| status(c.data_mut().set_tick_period(period.cast_unsigned())),
    )?;
    linker.func_wrap(
        ENV,
        "proxy_set_effective_context",
        |mut c: Called, id: i32| status(c.data_mut().set_effective_context(id.cast_unsigned())),
    )?;
    linker.func_wrap(
        ENV,
        "proxy_get_property",
        |mut c: Called, at: i32, length: i32, to: i32, size_to: i32| {
            let path = read(&mut c, at, length)?;
            let value = c.data().property(&path);
            give(&mut c, value, to, size_to)
        },
    )?;
    linker.func_wrap(
        ENV,
        "proxy_set_property",
        |mut c: Called, at: i32, length: i32, value: i32, size: i32| {
            let path = read(&mut c, at, length)?;
            let value = read(&mut c, value, size)?;
            status(c.data_mut().set_property(&path, &value))
        },
    )?;
    Ok(())
}

fn link_maps(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    linker.func_wrap(
        ENV,
        "proxy_get_buffer_bytes",
        |mut c: Called, buffer: i32, start: i32, length: i32, to: i32, size_to: i32| {
            let bytes = c.data().buffer(buffer, index(start), index(length));
            give(&mut c, bytes, to, size_to)
        },
    )?;
    linker.func_wrap(
        ENV,
        "proxy_set_buffer_bytes",
        |mut c: Called, buffer: i32, start: i32, length: i32, at: i32, size: i32| {
            let bytes = read(&mut c, at, size)?;
            if buffer != abi::REQUEST_BODY {
                return Ok(Status::BadArgument as i32);
            }
            status(
                c.data_mut()
                    .set_request_body(index(start), index(length), &bytes),
            )
        },
    )?;
    linker.func_wrap(
        ENV,
        "proxy_get_header_map_pairs",
        |mut c: Called, map: i32, to: i32, size_to: i32| {
            let pairs = c.data().header_map(map);
            give(&mut c, pairs, to, size_to)
        },
    )?;
    linker.func_wrap(
        ENV,
        "proxy_get_header_map_value",
        |mut c: Called, map: i32, at: i32, length: i32, to: i32, size_to: i32| {
            let name = read(&mut c, at, length)?;
            let value = c.data().header_value(map, &name);
            give(&mut c, value, to, size_to)
        },
    )?;
    linker.func_wrap(
        ENV,
        "proxy_replace_header_map_value",
        |mut c: Called, map: i32, at: i32, length: i32, value: i32, size: i32| {
            let name = read(&mut c, at, length)?;
            let value = read(&mut c, value, size)?;
            status(c.data_mut().replace_header(map, &name, Some(&value)))
        },
    )?;
    linker.func_wrap(
        ENV,
        "proxy_add_header_map_value",
        |mut c: Called, map: i32, at: i32, length: i32, value: i32, size: i32| {
            let name = read(&mut c, at, length)?;
            let value = read(&mut c, value, size)?;
            status(c.data_mut().add_header(map, &name, &value))
        },
    )?;
    linker.func_wrap(
        ENV,
        "proxy_remove_header_map_value",
        |mut c: Called, map: i32, at: i32, length: i32| {
            let name = read(&mut c, at, length)?;
            status(c.data_mut().replace_header(map, &name, None))
        },
    )?;
    Ok(())
}

fn link_requests(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    linker.func_wrap(
        ENV,
        "proxy_continue_stream",
        |mut c: Called, stream: i32| status(c.data_mut().continue_stream(stream)),
    )?;
    linker.func_wrap(
        ENV,
        "proxy_send_local_response",
        |mut c: Called,
         code: i32,
         _: i32,
         _: i32,
         body: i32,
         size: i32,
         at: i32,
         length: i32,
         _: i32| {
            let body = read(&mut c, body, size)?;
            let headers = read(&mut c, at, length)?;
            let Some(headers) = abi::deserialize(&headers) else {
                return Ok(Status::BadArgument as i32);
            };
            status(c.data_mut().send_local_response(LocalResponse {
                status: code.cast_unsigned(),
                headers,
                body,
            }))
        },
    )?;
    linker.func_wrap(
        ENV,
        "proxy_http_call",
        |mut c: Called,
         upstream: i32,
         upstream_size: i32,
         headers: i32,
         headers_size: i32,
         body: i32,
         body_size: i32,
         _: i32,
         _: i32,
         timeout: i32,
         to: i32| {
            let upstream = read(&mut c, upstream, upstream_size)?;
            let headers = read(&mut c, headers, headers_size)?;
            let sent = Sent {
                upstream: String::from_utf8_lossy(&upstream).into_owned(),
                headers: abi::deserialize(&headers).unwrap_or_default(),
                body: read(&mut c, body, body_size)?,
                timeout_ms: timeout.cast_unsigned(),
            };
            match c.data_mut().http_call(sent) {
                Ok(token) => write(&mut c, to, &token.to_le_bytes()).map(|()| 0),
                Err(refusal) => status(Err(refusal)),
            }
        },
    )?;
    Ok(())
}

fn link_shared_data(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    linker.func_wrap(
        ENV,
        "proxy_get_shared_data",
        |mut c: Called, at: i32, length: i32, to: i32, size_to: i32, cas_to: i32| {
            let key = read(&mut c, at, length)?;
            let found = c.data_mut().get_shared_data(&key);
            let cas = found.as_ref().map_or(0, |(_, cas)| *cas);
            let given = give(&mut c, found.map(|(value, _)| value), to, size_to)?;
            write(&mut c, cas_to, &cas.to_le_bytes())?;
            Ok(given)
        },
    )?;
    linker.func_wrap(
        ENV,
        "proxy_set_shared_data",
        |mut c: Called, at: i32, length: i32, value: i32, size: i32, cas: i32| {
            let key = read(&mut c, at, length)?;
            // A null pointer means no value, and not an empty one.
            let bytes = read(&mut c, value, size)?;
            let bytes = (value != 0).then_some(bytes.as_slice());
            status(
                c.data_mut()
                    .set_shared_data(&key, bytes, cas.cast_unsigned()),
            )
        },
    )?;
    Ok(())
}

fn link_metrics(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    linker.func_wrap(
        ENV,
        "proxy_define_metric",
        |mut c: Called, kind: i32, at: i32, length: i32, to: i32| {
            let name = read(&mut c, at, length)?;
            match c.data_mut().define_metric(kind, &name) {
                Ok(id) => write(&mut c, to, &id.to_le_bytes()).map(|()| 0),
                Err(refusal) => status(Err(refusal)),
            }
        },
    )?;
    linker.func_wrap(
        ENV,
        "proxy_increment_metric",
        |mut c: Called, id: i32, by: i64| {
            status(c.data_mut().increment_metric(id.cast_unsigned(), by))
        },
    )?;
    linker.func_wrap(
        ENV,
        "proxy_record_metric",
        |mut c: Called, id: i32, value: i64| {
            status(c.data_mut().record_metric(id.cast_unsigned(), value))
        },
    )?;
    linker.func_wrap(
        ENV,
        "proxy_get_metric",
        |mut c: Called, id: i32, to: i32| match c
            .data_mut()
            .change_metric(id.cast_unsigned(), |value| value)
        {
            Ok(value) => write(&mut c, to, &value.to_le_bytes()).map(|()| 0),
            Err(refusal) => status(Err(refusal)),
        },
    )?;
    Ok(())
}

fn link_wasi(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    linker.func_wrap(WASI, "random_get", |mut c: Called, to: i32, length: i32| {
        let mut bytes = vec![0; index(length)];
        if !c.data_mut().random_get(&mut bytes) {
            return Number::Ok(29);
        }
        write(&mut c, to, &bytes).map(|()| 0)
    })?;
    linker.func_wrap(
        WASI,
        "clock_time_get",
        |mut c: Called, _: i32, _: i64, to: i32| match c.data().current_time_ns() {
            Ok(time) => write(&mut c, to, &time.to_le_bytes()).map(|()| 0),
            Err(_) => Number::Ok(29),
        },
    )?;
    linker.func_wrap(
        WASI,
        "environ_sizes_get",
        |mut c: Called, count: i32, size: i32| {
            let lines = environment(&c);
            let bytes: usize = lines.iter().map(Vec::len).sum();
            write(&mut c, count, &small(lines.len()))?;
            write(&mut c, size, &small(bytes)).map(|()| 0)
        },
    )?;
    linker.func_wrap(
        WASI,
        "environ_get",
        |mut c: Called, mut pointers: i32, mut to: i32| {
            for line in environment(&c) {
                write(&mut c, pointers, &to.to_le_bytes())?;
                write(&mut c, to, &line)?;
                pointers += 4;
                to += i32::try_from(line.len()).unwrap();
            }
            Number::Ok(0)
        },
    )?;
    linker.func_wrap(
        WASI,
        "fd_write",
        |mut c: Called, fd: i32, list: i32, count: i32, written_to: i32| {
            let mut text = Vec::new();
            for part in 0..count {
                let part = read(&mut c, list + 8 * part, 8)?;
                let number = |at: usize| i32::from_le_bytes(part[at..at + 4].try_into().unwrap());
                text.extend(read(&mut c, number(0), number(4))?);
            }
            write(&mut c, written_to, &small(text.len()))?;
            let text = String::from_utf8_lossy(&text).into_owned();
            c.data().node.borrow_mut().log(format!("[fd {fd}] {text}"));
            Number::Ok(0)
        },
    )?;
    linker.func_wrap(WASI, "proc_exit", |code: i32| {
        wasmtime::Result::<()>::Err(wasmtime::Error::msg(format!("the filter exits: {code}")))
    })?;
    Ok(())
}

// --- memory --------------------------------------------------------------------------

fn index(number: i32) -> usize {
    number.cast_unsigned() as usize
}

fn small(number: usize) -> [u8; 4] {
    u32::try_from(number).unwrap().to_le_bytes()
}

fn environment(c: &Called) -> Vec<Vec<u8>> {
    let variables = c.data().environment();
    let lines = variables
        .iter()
        .map(|(name, value)| format!("{name}={value}\0"));
    lines.map(String::into_bytes).collect()
}

fn memory(c: &mut Called) -> wasmtime::Result<Memory> {
    let memory = c.get_export("memory").and_then(Extern::into_memory);
    memory.ok_or_else(|| wasmtime::Error::msg("the filter exports no memory"))
}

fn read(c: &mut Called, at: i32, length: i32) -> wasmtime::Result<Vec<u8>> {
    let memory = memory(c)?;
    let bytes = memory.data(&*c).get(index(at)..index(at) + index(length));
    let bytes = bytes.ok_or_else(|| wasmtime::Error::msg("an address outside of memory"))?;
    Ok(bytes.to_vec())
}

fn write(c: &mut Called, at: i32, bytes: &[u8]) -> wasmtime::Result<()> {
    let memory = memory(c)?;
    Ok(memory.write(c, index(at), bytes)?)
}

/// Gives bytes to the filter, in memory that it allocates.
fn give(c: &mut Called, bytes: HostResult<Vec<u8>>, to: i32, size_to: i32) -> Number {
    let bytes = match bytes {
        Ok(bytes) => bytes,
        Err(refusal) => return status(Err(refusal)),
    };
    let mut address = 0;
    if !bytes.is_empty() {
        let allocate = c.get_export("proxy_on_memory_allocate");
        let allocate = allocate.and_then(Extern::into_func);
        let allocate =
            allocate.ok_or_else(|| wasmtime::Error::msg("the filter cannot allocate"))?;
        let size = i32::try_from(bytes.len())?;
        address = allocate.typed::<i32, i32>(&*c)?.call(&mut *c, size)?;
        write(c, address, &bytes)?;
    }
    write(c, to, &address.to_le_bytes())?;
    write(c, size_to, &small(bytes.len()))?;
    Ok(Status::Ok as i32)
}

fn status(result: HostResult<()>) -> Number {
    match result {
        Ok(()) => Ok(Status::Ok as i32),
        Err(Refusal::Status(status)) => Ok(status as i32),
        Err(Refusal::Trap(why)) => Err(wasmtime::Error::msg(format!("the host traps: {why}"))),
    }
}
