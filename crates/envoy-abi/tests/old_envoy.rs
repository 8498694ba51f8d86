//! The module in an Envoy that lacks the newer callbacks.

#![allow(clippy::expect_used, reason = "a test that panics fails")]

#[allow(dead_code, reason = "the other tests use the rest")]
mod host;
mod probe;

/// Miri looks the callbacks up here.
#[cfg(miri)]
#[unsafe(no_mangle)]
extern "C" fn envoy_abi_dlsym(
    _handle: host::Envoy,
    _symbol: *const std::ffi::c_char,
) -> host::Envoy {
    std::ptr::null_mut()
}

#[test]
fn an_envoy_before_1_38_is_told_the_versions_that_do_and_gets_no_module() {
    assert_eq!(host::program_init(), None);
    let fault = "the module needs Envoy 1.38, 1.39 or 1.40; this Envoy is older";
    assert_eq!(host::logged(), [fault]);
}

#[test]
fn an_envoy_before_1_40_has_no_secrets() {
    probe::script(|script| {
        script.load = Box::new(|loading| {
            let fault = loading.subscribe("key", "").expect_err("no such callback");
            Err(fault.to_owned())
        });
    });
    assert!(host::Config::load("").is_none());
    let fault = "the configuration is refused: secrets need Envoy 1.40 or newer";
    assert_eq!(host::logged(), [fault]);
}

#[test]
fn an_envoy_before_1_39_changes_no_metric_between_streams() {
    probe::script(|script| {
        script.load = Box::new(|loading| {
            let counter = loading.define_counter("counter").expect("a counter");
            let wake = loading.waker();
            wake.wake();
            Ok(Box::new(move |outside| {
                assert!(!outside.increment(counter, 1));
                assert!(!outside.set_gauge(counter, 1));
                assert_eq!(
                    outside.call("c", &[], b"", probe::SECOND),
                    Err("Envoy is too old")
                );
                probe::note("looked");
            }))
        });
    });
    let config = host::Config::load("").expect("a configuration");
    config.wake();
    config.destroy();
    assert_eq!(probe::notes(), ["load", "looked", "end"]);
}
