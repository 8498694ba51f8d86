//! The terms of the proxy-wasm ABI 0.2.1: statuses, kinds of maps and buffers, lists of
//! pairs.
//!
//! Host functions are plain methods. The wasm calls them through the linker, and naive
//! filters call them directly. So they give typed results, and only the linker turns
//! these into numbers.

/// Headers as bytes, in their order.
pub type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Status {
    Ok = 0,
    NotFound = 1,
    BadArgument = 2,
    CasMismatch = 8,
    InternalFailure = 10,
    Unimplemented = 12,
}

/// The reasons why a host function gives no result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// A status that the filter sees.
    Status(Status),
    /// The host ends the filter: the call never returns.
    Trap(String),
}

pub type HostResult<T> = Result<T, Refusal>;

pub fn refuse<T>(status: Status) -> HostResult<T> {
    Err(Refusal::Status(status))
}

pub fn trap<T>(why: &str) -> HostResult<T> {
    Err(Refusal::Trap(why.to_owned()))
}

pub const REQUEST_HEADERS: i32 = 0;
pub const CALL_RESPONSE_HEADERS: i32 = 6;

pub const REQUEST_BODY: i32 = 0;
pub const CALL_RESPONSE_BODY: i32 = 4;
pub const VM_CONFIGURATION: i32 = 6;
pub const PLUGIN_CONFIGURATION: i32 = 7;

pub const REQUEST_STREAM: i32 = 0;

/// Kinds of metrics.
pub const COUNTER: i32 = 0;
pub const GAUGE: i32 = 1;

/// The return value of a filter's callback.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Continue,
    Pause,
}

pub fn pairs(list: &[(&str, &str)]) -> Pairs {
    list.iter()
        .map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec()))
        .collect()
}

pub fn value_of<'a>(pairs: &'a Pairs, name: &str) -> Option<&'a [u8]> {
    let found = pairs
        .iter()
        .find(|(known, _)| known.eq_ignore_ascii_case(name.as_bytes()));
    found.map(|(_, value)| value.as_slice())
}

/// The count, all lengths, then each name and value with a zero after it.
pub fn serialize(pairs: &Pairs) -> Vec<u8> {
    let number = |length: usize| u32::try_from(length).unwrap().to_le_bytes();
    let mut bytes = number(pairs.len()).to_vec();
    for (name, value) in pairs {
        bytes.extend(number(name.len()));
        bytes.extend(number(value.len()));
    }
    for text in pairs.iter().flat_map(|(name, value)| [name, value]) {
        bytes.extend(text);
        bytes.push(0);
    }
    bytes
}

pub fn deserialize(bytes: &[u8]) -> Option<Pairs> {
    let number = |at: usize| {
        let bytes = bytes.get(at..at + 4)?.try_into().ok()?;
        usize::try_from(u32::from_le_bytes(bytes)).ok()
    };
    if bytes.is_empty() {
        return Some(Vec::new());
    }
    let count = number(0)?;
    let mut at = 4 + 8 * count;
    let mut text = |length: usize| {
        let text = bytes.get(at..at + length)?.to_vec();
        at += length + 1;
        Some(text)
    };
    (0..count)
        .map(|index| {
            let (name, value) = (number(4 + 8 * index)?, number(8 + 8 * index)?);
            Some((text(name)?, text(value)?))
        })
        .collect()
}

#[test]
fn pairs_survive_their_way_through_memory() {
    let list = vec![
        (b":path".to_vec(), b"/".to_vec()),
        (b"x".to_vec(), vec![0xff, 0, 0xfe]),
        (b"empty".to_vec(), Vec::new()),
    ];
    assert_eq!(deserialize(&serialize(&list)), Some(list));
    assert_eq!(deserialize(&[1, 0, 0, 0]), None);
}
