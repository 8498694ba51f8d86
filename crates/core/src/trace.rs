//! The trace that a request belongs to (W3C Trace Context), as its client or gateway says.
//!
//! A header that does not follow the recommendation is dropped: both headers come from outside
//! and go on to Keycloak and into the log.

/// Bytes of a `tracestate`; the recommendation asks that 512 be passed on.
const STATE_BYTES_MAX: usize = 512;
/// Members of a `tracestate` (W3C Trace Context, 3.3.1.1).
const MEMBERS_MAX: usize = 32;
/// Bytes of a `traceparent` of a version that is not known yet.
const PARENT_BYTES_MAX: usize = 128;

/// A valid `traceparent`, and the `tracestate` beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceContext {
    parent: String,
    state: Option<String>,
}

impl TraceContext {
    /// Reads the trace from a request's headers. None without one valid `traceparent`. A
    /// `tracestate` is left out if it is not valid, or if `may_hold_key` says so.
    #[must_use]
    pub fn read(
        headers: &[(String, Vec<u8>)],
        may_hold_key: impl Fn(&[u8]) -> bool,
    ) -> Option<Self> {
        let all = |wanted: &'static str| {
            let named = headers
                .iter()
                .filter(move |(name, _)| name.eq_ignore_ascii_case(wanted));
            named.map(|(_, value)| value.as_slice())
        };
        let mut parents = all("traceparent");
        let parent = parents.next().filter(|parent| is_parent(parent))?;
        if parents.next().is_some() {
            return None;
        }
        // Several headers are one list.
        let state = all("tracestate").collect::<Vec<_>>().join(&b","[..]);
        let goes_on = is_state(&state) && !may_hold_key(&state);
        let state = goes_on.then(|| String::from_utf8(state).ok());
        Some(Self {
            parent: std::str::from_utf8(parent).ok()?.to_owned(),
            state: state.flatten(),
        })
    }

    /// The trace's id: 32 hexadecimal digits.
    #[must_use]
    pub fn trace_id(&self) -> &str {
        self.parent.get(3..35).unwrap_or_default()
    }

    /// The headers that carry the trace.
    pub fn headers(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let state = self.state.as_deref().map(|state| ("tracestate", state));
        [("traceparent", self.parent.as_str())]
            .into_iter()
            .chain(state)
    }
}

/// `00-<32 digits>-<16 digits>-<2 digits>`, hexadecimal and in lower case, neither id all zeros.
/// A later version may have more fields after these; version `ff` does not exist.
fn is_parent(text: &[u8]) -> bool {
    let (known, more) = match text.split_at_checked(55) {
        Some(parts) if text.len() <= PARENT_BYTES_MAX => parts,
        _ => return false,
    };
    let parts: Vec<&[u8]> = known.split(|byte| *byte == b'-').collect();
    let [version, trace, parent, flags] = parts.as_slice() else {
        return false;
    };
    let is_hex = |part: &[u8]| {
        part.iter()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    let is_id = |part: &[u8], digits: usize| {
        part.len() == digits && is_hex(part) && part.iter().any(|byte| *byte != b'0')
    };
    let is_more = match more {
        [] => true,
        [b'-', rest @ ..] => *version != b"00" && rest.iter().all(u8::is_ascii_graphic),
        _ => false,
    };
    is_more
        && version.len() == 2
        && is_hex(version)
        && *version != b"ff"
        && is_id(trace, 32)
        && is_id(parent, 16)
        && flags.len() == 2
        && is_hex(flags)
}

/// A list of `key=value`, in printable ASCII.
fn is_state(text: &[u8]) -> bool {
    let is_printable = |byte: &u8| byte.is_ascii_graphic() || *byte == b' ' || *byte == b'\t';
    if text.is_empty() || text.len() > STATE_BYTES_MAX || !text.iter().all(is_printable) {
        return false;
    }
    let mut members = 0;
    text.split(|byte| *byte == b',').all(|member| {
        let member = member.trim_ascii();
        members += usize::from(!member.is_empty());
        members <= MEMBERS_MAX && (member.is_empty() || is_member(member))
    })
}

fn is_member(member: &[u8]) -> bool {
    let mut parts = member.splitn(2, |byte| *byte == b'=');
    let (Some(key), Some(value)) = (parts.next(), parts.next()) else {
        return false;
    };
    let is_key =
        |byte: &u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'*' | b'/' | b'@');
    !key.is_empty() && key.iter().all(is_key) && !value.is_empty() && !value.contains(&b'=')
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn read(headers: &[(&str, &str)]) -> Option<TraceContext> {
        let headers: Vec<_> = headers
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec()))
            .collect();
        let is_secret = |state: &[u8]| {
            let state = String::from_utf8_lossy(state);
            state.contains("sk_live_") || state.contains("secret")
        };
        TraceContext::read(&headers, is_secret)
    }

    fn state(states: &[&str]) -> Option<String> {
        let states = states.iter().map(|state| ("tracestate", *state));
        let headers: Vec<_> = [("Traceparent", PARENT)]
            .into_iter()
            .chain(states)
            .collect();
        let context = read(&headers).unwrap();
        assert_eq!(context.trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
        context.state
    }

    #[test]
    fn a_valid_context_goes_on_as_it_came() {
        let context = read(&[("traceparent", PARENT), ("tracestate", "a=1,b@x=2")]).unwrap();
        let headers: Vec<_> = context.headers().collect();
        assert_eq!(
            headers,
            [("traceparent", PARENT), ("tracestate", "a=1,b@x=2")]
        );
        let later = format!("cc{}-more", &PARENT[2..]);
        assert!(read(&[("traceparent", &later)]).is_some());
        assert_eq!(read(&[("tracestate", "a=1")]), None);
    }

    #[test]
    fn a_parent_of_any_other_form_is_dropped() {
        let zeros = "0".repeat(32);
        for wrong in [
            "",
            "00",
            &PARENT[..54],
            &format!("{PARENT}-more"),
            &format!("{PARENT}0"),
            &PARENT.to_uppercase(),
            &PARENT.replace("00-4", "ff-4"),
            &PARENT.replace("4bf92f3577b34da6a3ce929d0e0e4736", &zeros),
            &PARENT.replace("00f067aa0ba902b7", &zeros[..16]),
            &PARENT.replace("-01", "-0x"),
            &PARENT.replace('f', "g"),
            &PARENT.replace("-00f", "\r\n0f"),
            &format!("cc{}-{}", &PARENT[2..], "x".repeat(200)),
        ] {
            assert_eq!(read(&[("traceparent", wrong)]), None, "{wrong}");
        }
        let twice = [("traceparent", PARENT), ("traceparent", PARENT)];
        assert_eq!(read(&twice), None);
    }

    #[test]
    fn a_state_that_is_not_one_or_is_too_long_or_holds_a_key_is_left_out() {
        assert_eq!(state(&["a=1", "b=2"]).as_deref(), Some("a=1,b=2"));
        assert_eq!(state(&["a=1, ,b=2"]).as_deref(), Some("a=1, ,b=2"));
        let many = |count: usize| vec!["a=1"; count].join(",");
        assert!(state(&[&many(MEMBERS_MAX)]).is_some());
        for wrong in [
            "",
            "a",
            "=1",
            "a=",
            "a=1=2",
            "A=1",
            "a=1\r\nx: y",
            "a=\u{fc}",
            "a=sk_live_0",
            &many(MEMBERS_MAX + 1),
            &format!("a={}", "x".repeat(STATE_BYTES_MAX)),
        ] {
            assert_eq!(state(&[wrong]), None, "{wrong}");
        }
        let context = read(&[("traceparent", PARENT), ("tracestate", "a=secret")]).unwrap();
        assert_eq!(context.headers().count(), 1);
    }
}
