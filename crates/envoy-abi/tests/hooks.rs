//! The hooks of a module, in a fake Envoy that ends the process where a real one would crash.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::type_complexity,
    reason = "a test that panics fails, and a hook that panics is tested"
)]

mod host;
#[path = "host/newer.rs"]
mod newer;
mod probe;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::{panic, thread};

use envoy_abi::{MetricId, SecretId, Step, Waker};
use host::{Config, Inline, Route, Stream};
use probe::{OnStream, note, notes, reply, script};

const CONTINUE: u32 = 0;
const STOP: u32 = 1;
const STOP_NO_BUFFER: u32 = 3;
const STOP_ALL: u32 = 4;

const PANICKED: &str = "a hook of the module panicked: please report this";

/// A configuration whose filters do nothing yet.
fn config() -> Box<Config> {
    let config = Config::load("").expect("the module takes it");
    notes();
    config
}

fn steps(step: fn() -> Step) -> OnStream {
    Box::new(move |_| step())
}

/// Lets filters wait, and take their body or not, and wakes them at once.
fn waits(step: fn() -> Step) {
    script(|script| {
        script.headers = Box::new(move |stream| {
            stream.waker().wake();
            step()
        });
    });
}

/// The details of each answer.
fn replies(stream: &Stream) -> Vec<String> {
    let details = |(_, text): &(u32, String)| text.split(' ').take(1).collect();
    stream.replies.borrow().iter().map(details).collect()
}

#[test]
fn the_module_asks_for_the_interface_of_envoy_1_40() {
    assert_eq!(host::program_init().as_deref(), Some("v0.2.0"));
}

#[test]
fn a_filter_reads_its_stream_and_changes_it() {
    script(|script| {
        script.headers = Box::new(|stream| {
            let text = |headers: Vec<(&[u8], &[u8])>| {
                let bytes = |(name, value): (&[u8], &[u8])| [name, b"=", value, b";"].concat();
                String::from_utf8(headers.into_iter().flat_map(bytes).collect()).expect("text")
            };
            note(text(stream.request_headers()));
            assert!(stream.set_header("authorization", "Bearer"));
            note(text(stream.request_headers()));
            assert!(stream.set_header("x-empty", ""));
            assert!(stream.remove_header("authorization"));
            note(text(stream.request_headers()));
            note(stream.source_address().expect("an address"));
            stream.set_metadata("keys", "owner", "me");
            assert!(matches!(stream.route_config(), Ok(None)));
            Step::Continue
        });
        script.response = Box::new(|stream| note(format!("{:?}", stream.response_status())));
    });
    let config = config();
    let stream = config.stream(&[(":path", "/"), ("authorization", "ApiKey")]);
    assert_eq!(stream.request(true), CONTINUE);
    stream.response();
    let read = [
        "headers",
        ":path=/;authorization=ApiKey;",
        ":path=/;authorization=Bearer;",
        ":path=/;x-empty=;",
        "192.0.2.7:4711",
        "response",
        "Some(204)",
    ];
    assert_eq!(notes(), read);
    assert_eq!(*stream.metadata.borrow(), ["keys.owner=me"]);
    stream.destroy();
    config.destroy();
}

#[test]
fn a_filter_reads_the_configuration_of_its_route() {
    script(|script| {
        script.headers = Box::new(|stream| {
            note(&stream.route_config().expect("ours").expect("one").0);
            Step::Continue
        });
    });
    let config = config();
    let route = Route::load("of a route").expect("the module takes it");
    let stream = config.stream(&[]);
    stream.route.set(route.0);
    stream.request(true);
    assert_eq!(notes(), ["headers", "of a route"]);
    stream.destroy();
    config.destroy();
}

#[test]
fn the_configuration_of_another_module_is_not_read() {
    script(|script| {
        script.headers = Box::new(|stream| {
            note(format!("{:?}", stream.route_config().err()));
            Step::Continue
        });
    });
    let config = config();
    let stream = config.stream(&[]);
    let foreign = [0_usize; 4];
    stream.route.set(foreign.as_ptr().cast());
    stream.request(true);
    assert_eq!(notes(), ["headers", "Some(Foreign)"]);
    stream.destroy();
    config.destroy();
}

#[test]
fn a_request_stops_or_goes_on_as_its_filter_says() {
    let config = config();
    let table: [(fn() -> Step, u32, u32, u32); 4] = [
        (|| Step::Continue, CONTINUE, CONTINUE, CONTINUE),
        (|| Step::Hold, STOP_ALL, STOP_NO_BUFFER, STOP),
        (|| Step::ReadBody, STOP, STOP_NO_BUFFER, STOP),
        (|| Step::Reply(reply("no")), STOP, STOP_NO_BUFFER, STOP),
    ];
    for (step, headers, body, trailers) in table {
        script(|script| script.headers = steps(step));
        let stream = config.stream(&[]);
        assert_eq!(stream.request(false), headers);
        stream.destroy();

        script(|script| {
            script.headers = steps(|| Step::ReadBody);
            script.body = Box::new(move |_, _| step());
        });
        let stream = config.stream(&[]);
        assert_eq!(stream.request(false), STOP);
        assert_eq!(stream.body(&["a"], false), body);
        stream.destroy();
        let stream = config.stream(&[]);
        assert_eq!(stream.request(false), STOP);
        assert_eq!(stream.trailers(), trailers);
        stream.destroy();
    }
    config.destroy();
}

#[test]
fn a_filter_that_takes_the_body_gets_each_part_and_its_end() {
    script(|script| {
        script.headers = steps(|| Step::ReadBody);
        script.body = Box::new(|part, ends| {
            note(format!(
                "{} {ends}",
                String::from_utf8_lossy(&part.join(&b'|'))
            ));
            Step::ReadBody
        });
    });
    let config = config();
    let stream = config.stream(&[]);
    stream.request(false);
    stream.body(&["one", "", "two"], false);
    stream.body(&[], false);
    stream.body(&["three"], false);
    stream.trailers();
    let read = ["headers", "body", "one||two false", "body", " false"];
    assert_eq!(
        notes(),
        [&read[..], &["body", "three false", "body", " true"]].concat()
    );
    stream.destroy();
    config.destroy();
}

#[test]
fn the_body_of_a_request_that_waits_does_not_go_on_alone() {
    script(|script| {
        script.headers = steps(|| Step::ReadBody);
        script.body = Box::new(|_, _| Step::Hold);
    });
    let config = config();
    let stream = config.stream(&[]);
    stream.request(false);
    assert_eq!(stream.body(&["first"], false), STOP_NO_BUFFER);
    assert_eq!(stream.body(&["second"], false), STOP_NO_BUFFER);
    assert_eq!(stream.trailers(), STOP);
    assert_eq!(notes(), ["headers", "body"]);
    stream.destroy();
    config.destroy();
}

#[test]
fn an_answer_reaches_the_client_once_and_ends_the_filter() {
    waits(|| Step::Reply(reply("no")));
    let config = config();
    let stream = config.stream(&[]);
    stream.request(false);
    assert_eq!(
        *stream.replies.borrow(),
        [(403, r#"no [("x-why", "test")] no"#.to_owned())]
    );
    assert_eq!(stream.wake(), 1);
    assert_eq!(stream.body(&["a"], true), STOP_NO_BUFFER);
    assert_eq!(stream.trailers(), STOP);
    stream.response();
    assert_eq!(notes(), ["headers"]);
    stream.destroy();
    config.destroy();
}

#[test]
fn an_answer_or_a_continuation_may_destroy_the_filter_or_run_the_response_at_once() {
    let config = config();
    let step: [fn() -> Step; 2] = [|| Step::Reply(reply("no")), || Step::Continue];
    for inline in [Inline::Destroy, Inline::Response, Inline::Nothing] {
        for (step, continues) in [(step[0], false), (step[1], true)] {
            script(|script| {
                script.headers = steps(step);
                script.body = Box::new(move |_, _| step());
                script.wake = steps(step);
            });
            let headers = |stream: &Stream| {
                stream.request(true);
            };
            let body = |stream: &Stream| {
                script(|script| script.headers = steps(|| Step::ReadBody));
                stream.request(false);
                stream.body(&["a"], true);
            };
            let trailers = |stream: &Stream| {
                stream.request(false);
                stream.trailers();
            };
            let wake = |stream: &Stream| {
                waits(|| Step::Hold);
                stream.request(true);
                stream.wake();
                assert_eq!(stream.continued.get(), usize::from(continues));
            };
            let hooks: [(&dyn Fn(&Stream), bool); 4] = [
                (&headers, false),
                (&body, false),
                (&trailers, false),
                (&wake, true),
            ];
            for (hook, of_wake) in hooks {
                notes();
                let stream = config.stream(&[]);
                stream.inline.set(inline);
                hook(&stream);
                let happened = !continues || of_wake;
                assert_eq!(stream.is_gone(), happened && inline == Inline::Destroy);
                let answered = notes().contains(&"response".to_owned());
                assert_eq!(answered, continues && of_wake && inline == Inline::Response);
                if !stream.is_gone() {
                    stream.destroy();
                }
            }
        }
    }
    config.destroy();
}

#[test]
fn a_second_wake_does_not_let_a_request_go_on_twice() {
    script(|script| {
        script.headers = Box::new(|stream| {
            stream.waker().wake();
            stream.waker().wake();
            Step::Hold
        });
    });
    let config = config();
    let stream = config.stream(&[]);
    assert_eq!(stream.request(true), STOP_ALL);
    assert_eq!(stream.wake(), 2);
    assert_eq!(
        (stream.continued.get(), notes()),
        (1, vec!["headers".to_owned(), "wake".to_owned()])
    );
    stream.destroy();
    config.destroy();
}

#[test]
fn a_filter_does_not_answer_a_request_that_went_on_or_that_envoy_answered() {
    script(|script| script.wake = steps(|| Step::Reply(reply("late"))));
    let config = config();
    for (step, envoy_answers) in [(Step::Continue, false), (Step::Hold, true)] {
        waits(if step == Step::Hold {
            || Step::Hold
        } else {
            || Step::Continue
        });
        let stream = config.stream(&[]);
        stream.request(true);
        if envoy_answers {
            stream.response();
        }
        assert_eq!(stream.wake(), 1);
        assert_eq!((replies(&stream), stream.continued.get()), (Vec::new(), 0));
        stream.destroy();
    }
    config.destroy();
}

#[test]
fn a_filter_that_waits_on_after_a_wake_is_woken_again() {
    script(|script| {
        script.wake = Box::new(|stream| {
            stream.waker().wake();
            script_again();
            Step::Hold
        });
    });
    fn script_again() {
        note("holds");
    }
    waits(|| Step::Hold);
    let config = config();
    let stream = config.stream(&[]);
    stream.request(true);
    assert_eq!(stream.wake(), 1);
    script(|script| script.wake = steps(|| Step::Continue));
    assert_eq!(stream.wake(), 1);
    assert_eq!(notes(), ["headers", "wake", "holds", "wake"]);
    assert_eq!(stream.continued.get(), 1);
    stream.destroy();
    config.destroy();
}

/// Wakes all the time, until told to end.
fn waking(waker: Waker) -> impl FnOnce() {
    let end = Arc::new(AtomicBool::new(false));
    let (ended, (began, begins)) = (Arc::clone(&end), mpsc::channel());
    let thread = thread::spawn(move || {
        while !ended.load(Ordering::SeqCst) {
            waker.wake();
            let _ = began.send(());
        }
        waker.wake();
    });
    begins.recv().expect("it began");
    move || {
        end.store(true, Ordering::SeqCst);
        thread.join().expect("no panic");
    }
}

#[test]
fn threads_that_wake_a_stream_while_it_ends_use_no_deleted_scheduler() {
    let config = config();
    for _ in 0..if cfg!(miri) { 2 } else { 20 } {
        let (sender, receiver) = mpsc::channel();
        script(|script| {
            script.headers = Box::new(move |stream| {
                let _ = sender.send([stream.waker(), stream.waker()]);
                Step::Hold
            });
        });
        let stream = config.stream(&[]);
        stream.request(true);
        let [one, other] = receiver.recv().expect("both").map(waking);
        stream.destroy();
        one();
        other();
    }
    config.destroy();
}

#[test]
fn threads_that_wake_a_configuration_while_it_ends_use_no_deleted_scheduler() {
    for _ in 0..if cfg!(miri) { 2 } else { 20 } {
        let (sender, receiver) = mpsc::channel();
        script(|script| {
            script.load = Box::new(move |loading| {
                let _ = sender.send(loading.waker());
                Ok(Box::new(|_| {}))
            });
        });
        let config = config();
        let end = waking(receiver.recv().expect("one"));
        let handle = config.handle();
        // As with the last stream of a listener that went away.
        thread::spawn(move || handle.destroy())
            .join()
            .expect("no panic");
        end();
        drop(config);
    }
}

#[test]
fn a_configuration_may_end_within_a_wake_of_it() {
    let (sender, receiver) = mpsc::channel();
    script(|script| {
        script.load = Box::new(move |loading| {
            let _ = sender.send(loading.waker());
            Ok(Box::new(|_| {}))
        });
    });
    let config = config();
    let waker = receiver.recv().expect("one");
    let handle = config.handle();
    let thread = thread::spawn(move || {
        host::LAST_HELD.set(Some(handle));
        waker.wake();
        // It has ended.
        waker.wake();
    });
    thread.join().expect("no panic");
    assert_eq!(config.ended(), 1);
}

#[test]
fn a_panic_in_a_hook_refuses_the_request_and_no_later_hook_runs() {
    let config = config();
    let panics: [(&str, fn()); 4] = [
        ("filter", || {
            script(|script| script.filter = Box::new(|| panic!("asked for")))
        }),
        ("headers", || waits(|| panic!("asked for"))),
        ("body", || {
            waits(|| Step::ReadBody);
            script(|script| script.body = Box::new(|_, _| panic!("asked for")));
        }),
        ("wake", || {
            waits(|| Step::ReadBody);
            script(|script| script.wake = steps(|| panic!("asked for")));
        }),
    ];
    for (hook, set) in panics {
        script(|script| {
            script.filter = Box::new(|| {});
            script.body = Box::new(|_, _| Step::ReadBody);
            script.wake = steps(|| Step::Hold);
        });
        set();
        host::logged();
        let stream = config.stream(&[]);
        assert_eq!(stream.request(false), STOP, "{hook}");
        if hook == "wake" {
            stream.wake();
        }
        assert_eq!(stream.body(&["a"], false), STOP_NO_BUFFER, "{hook}");
        assert_eq!(replies(&stream), ["panicked"], "{hook}");
        notes();
        stream.wake();
        stream.body(&["b"], true);
        stream.trailers();
        stream.response();
        assert_eq!(notes(), [""; 0], "{hook}");
        assert_eq!(host::logged(), [PANICKED], "{hook}");
        stream.destroy();
    }
    config.destroy();
}

#[test]
fn a_panic_in_the_hook_of_the_response_lets_the_response_go_on() {
    script(|script| script.response = Box::new(|_| panic!("asked for")));
    waits(|| Step::Continue);
    let config = config();
    let stream = config.stream(&[]);
    stream.request(true);
    stream.response();
    stream.wake();
    assert_eq!(stream.body(&["a"], true), STOP_NO_BUFFER);
    assert_eq!(notes(), ["headers", "response"]);
    assert_eq!(host::logged(), [PANICKED]);
    stream.destroy();
    config.destroy();
}

#[test]
fn a_panic_while_a_panic_is_answered_still_refuses_the_request() {
    script(|script| {
        script.headers = steps(|| panic!("asked for"));
        script.refusal = || panic!("asked for");
    });
    let config = config();
    let stream = config.stream(&[]);
    assert_eq!(stream.request(true), STOP);
    assert_eq!(*stream.replies.borrow(), [(500, " [] ".to_owned())]);
    stream.destroy();
    config.destroy();
}

#[test]
fn a_panic_at_the_end_of_an_object_goes_no_further() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("asked for, again");
        }
    }
    let config = config();
    let stream = config.stream(&[]);
    drop(Route::load("panic at the end"));
    script(|script| script.dropped = || panic!("asked for"));
    stream.destroy();
    script(|script| script.dropped = || panic::panic_any(Bomb));
    config.destroy();
    assert_eq!(host::logged(), [PANICKED; 4]);
}

#[test]
fn a_configuration_with_a_fault_is_refused_with_the_fault_and_its_waker_ends() {
    let (sender, receiver) = mpsc::channel();
    script(|script| {
        script.load = Box::new(move |loading| {
            let _ = sender.send(loading.waker());
            Err("a fault".to_owned())
        });
    });
    assert!(Config::load("text").is_none());
    receiver.recv().expect("a waker").wake();
    assert_eq!(notes(), ["load text"]);
    assert_eq!(host::logged(), ["the configuration is refused: a fault"]);

    script(|script| script.load = Box::new(|_| panic!("asked for")));
    assert!(Config::load("").is_none());
    let panicked = "the configuration is refused: the module panicked";
    assert_eq!(host::logged(), [PANICKED, panicked]);

    assert!(Route::load("").is_none());
    assert_eq!(
        host::logged(),
        ["a route's configuration is refused: empty"]
    );
    assert!(Route::load("panic").is_none());
    assert!(
        host::logged()
            .last()
            .expect("a line")
            .ends_with("the module panicked")
    );
}

#[test]
fn a_configuration_that_is_woken_uses_metrics_and_secrets_and_makes_calls() {
    script(|script| {
        script.load = Box::new(|loading| {
            let counter = loading.define_counter("counter").expect("a counter");
            let gauge = loading.define_gauge("gauge").expect("a gauge");
            let key: SecretId = loading.subscribe("key", "")?;
            assert!(loading.subscribe("another", "").is_err());
            loading.waker().wake();
            Ok(Box::new(move |outside| {
                assert!(outside.increment(counter, 2));
                assert!(outside.set_gauge(gauge, 9) && outside.set_gauge(gauge, 5));
                let text = |secret: &[u8]| String::from_utf8_lossy(secret).into_owned();
                note(format!("{:?}", outside.secret(key).map(text)));
                let call = outside.call("keycloak", &[(":path", "/")], b"body", probe::SECOND);
                note(format!("{call:?}"));
            }))
        });
    });
    let config = config();
    assert_eq!(config.wake(), 1);
    let metrics = [("counter".to_owned(), 2), ("gauge".to_owned(), 5)];
    assert_eq!(*config.metrics.borrow(), metrics);
    assert_eq!(
        *config.called.borrow(),
        [r#"keycloak [(":path", "/")] body 1000"#]
    );
    config.answer(1, 0, &[("x", "y"), (":status", "200")], &["a", "", "b"]);
    config.answer(2, 0, &[(":status", "no number")], &[]);
    config.answer(3, 0, &[], &["no status"]);
    config.fail(4);
    config.answer(5, 2, &[(":status", "200")], &["cut off"]);
    config.answer(6, 0, &[(":status", "500")], &["panic"]);
    let answers = [
        "answer 1: 200 ab",
        "answer 2: none",
        "answer 3: none",
        "answer 4: none",
        "answer 5: none",
    ];
    let first = ["None", "Ok(1)"];
    assert_eq!(
        notes(),
        [&first[..], &answers, &["answer 6: 500 panic"]].concat()
    );
    assert_eq!(host::logged(), [PANICKED]);
    config.destroy();
    assert_eq!(notes(), ["end"]);
}

/// A configuration that makes a call each time it is woken, and its waker.
fn calling() -> (Box<Config>, Waker) {
    let (sender, receiver) = mpsc::channel();
    script(|script| {
        script.load = Box::new(move |loading| {
            let _ = sender.send(loading.waker());
            let key = loading.subscribe("key", "")?;
            Ok(Box::new(move |outside| {
                let secret = outside.secret(key).map_or(0, <[u8]>::len);
                note(format!(
                    "{:?} {secret}",
                    outside.call("c", &[], b"", probe::SECOND / 1000)
                ));
            }))
        });
    });
    let config = config();
    (config, receiver.recv().expect("a waker"))
}

#[test]
fn a_call_that_envoy_does_not_send_says_why() {
    let (config, waker) = calling();
    config.secret.replace("secret".to_owned());
    for result in 0..5 {
        config.call_result.set(result);
        waker.wake();
        config.wake();
    }
    let said = [
        "Ok(1) 6",
        r#"Err("the call lacks a header") 6"#,
        r#"Err("Envoy has no such cluster") 6"#,
        r#"Err("the cluster takes no call") 6"#,
        r#"Err("the cluster takes no call") 6"#,
    ];
    assert_eq!(notes(), said);
    config.destroy();
}

#[test]
fn a_configuration_that_ends_on_a_worker_thread_waits_for_its_calls() {
    let (config, waker) = calling();
    for _ in 0..2 {
        waker.wake();
        config.wake();
    }
    let handle = config.handle();
    let worker = thread::spawn(move || {
        handle.destroy();
        (notes(), host::logged())
    });
    for call in [1, 2] {
        for _ in 0..100 {
            thread::yield_now();
            assert!(!worker.is_finished(), "call {call} is under way");
        }
        config.fail(call);
    }
    let (ends, faults) = worker.join().expect("no panic");
    assert_eq!((ends, faults), (vec!["end".to_owned()], Vec::new()));
}

#[test]
fn a_configuration_that_ends_on_the_main_thread_leaves_its_calls_to_envoy() {
    let (config, waker) = calling();
    waker.wake();
    config.wake();
    config.destroy();
    assert_eq!(host::logged(), [""; 0]);
}

#[test]
fn a_configuration_is_kept_if_its_call_does_not_end_in_its_time() {
    let (config, waker) = calling();
    waker.wake();
    config.wake();
    notes();
    let handle = config.handle();
    let worker = thread::spawn(move || {
        handle.destroy();
        host::logged()
    });
    let kept = "a configuration ended before its calls, and is kept";
    assert_eq!(worker.join().expect("no panic"), [kept]);
    // Envoy's main thread was late.
    config.fail(1);
    assert_eq!(notes(), ["answer 1: none"]);
    config.destroy();
}

#[test]
fn filters_of_one_configuration_run_on_several_threads() {
    let config = config();
    let handle = config.handle();
    let workers: Vec<_> = (0..3)
        .map(|_| {
            thread::spawn(move || {
                waits(|| Step::Hold);
                let stream = handle.stream(&[]);
                stream.request(true);
                stream.wake();
                assert_eq!(stream.continued.get(), 1);
                stream.destroy();
                assert_eq!(notes(), ["headers", "wake", "drop"]);
            })
        })
        .collect();
    for worker in workers {
        worker.join().expect("no panic");
    }
    config.destroy();
}

#[test]
fn a_stream_counts() {
    let (sender, receiver) = mpsc::channel::<[MetricId; 2]>();
    script(|script| {
        script.load = Box::new(move |loading| {
            let ids = [loading.define_counter("a"), loading.define_gauge("b")];
            let _ = sender.send(ids.map(|id| id.expect("an id")));
            Ok(Box::new(|_| {}))
        });
        script.headers = Box::new(move |stream| {
            let [counter, gauge] = receiver.recv().expect("both");
            stream.increment(counter, 3);
            stream.set_gauge(gauge, 4);
            Step::Continue
        });
    });
    let config = config();
    let stream = config.stream(&[]);
    stream.request(true);
    assert_eq!(*stream.counts.borrow(), [(0, 3), (1, 4)]);
    stream.destroy();
    config.destroy();
}
