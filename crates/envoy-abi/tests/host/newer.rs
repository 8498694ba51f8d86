//! The callbacks of the fake Envoy that versions before 1.38, 1.39 or 1.40 lack.

use super::host::{Config, Envoy, Header, Slice, pairs, text, write};

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_http_filter_config_http_callout(
    at: Envoy,
    call: *mut u64,
    cluster: Slice,
    headers: *const Header,
    count: usize,
    body: Slice,
    limit: u64,
) -> u32 {
    let config = Config::at(at);
    let headers = pairs(headers, count);
    let line = format!("{} {headers:?} {} {limit}", text(cluster), text(body));
    config.called.borrow_mut().push(line);
    let result = config.call_result.get();
    if result == 0 {
        config.calls.set(config.calls.get() + 1);
        write(call, config.calls.get());
    }
    result
}

fn change(at: Envoy, id: usize, change: impl FnOnce(&mut u64)) -> u32 {
    match Config::at(at).metrics.borrow_mut().get_mut(id) {
        Some((_, value)) => {
            change(value);
            0
        }
        None => 1,
    }
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_http_filter_config_increment_counter(
    at: Envoy,
    id: usize,
    _labels: *mut Slice,
    _count: usize,
    by: u64,
) -> u32 {
    change(at, id, |value| *value += by)
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_http_filter_config_set_gauge(
    at: Envoy,
    id: usize,
    _labels: *mut Slice,
    _count: usize,
    to: u64,
) -> u32 {
    change(at, id, |value| *value = to)
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_http_filter_config_generic_secret_subscribe(
    at: Envoy,
    name: Slice,
    source: Slice,
) -> usize {
    Config::at(at);
    match (text(name).as_str(), text(source).as_str()) {
        ("key", "") => 7,
        _ => 0,
    }
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_http_filter_config_get_generic_secret(
    at: Envoy,
    id: usize,
    value: *mut Slice,
) -> bool {
    let config = Config::at(at);
    write(value, config.place.lend(config.secret.borrow().as_bytes()));
    id == 7
}

/// Miri looks the callbacks up here.
#[cfg(miri)]
#[unsafe(no_mangle)]
extern "C" fn envoy_abi_dlsym(_handle: Envoy, symbol: *const std::ffi::c_char) -> Envoy {
    // SAFETY: the module promises so; Miri checks it.
    let symbol = unsafe { std::ffi::CStr::from_ptr(symbol) }.to_string_lossy();
    match symbol.trim_start_matches("envoy_dynamic_module_callback_http_filter_config_") {
        "http_callout" => envoy_dynamic_module_callback_http_filter_config_http_callout as Envoy,
        "increment_counter" => {
            envoy_dynamic_module_callback_http_filter_config_increment_counter as Envoy
        }
        "set_gauge" => envoy_dynamic_module_callback_http_filter_config_set_gauge as Envoy,
        "generic_secret_subscribe" => {
            envoy_dynamic_module_callback_http_filter_config_generic_secret_subscribe as Envoy
        }
        "get_generic_secret" => {
            envoy_dynamic_module_callback_http_filter_config_get_generic_secret as Envoy
        }
        _ => std::ptr::null_mut(),
    }
}
