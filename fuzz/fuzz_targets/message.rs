//! Messages of the channel layer as they come from Redis, in both formats.

#![no_main]

use anteroom::channel_layer::{EncodeError, Message, Serializer, SerializerFormat, Value};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    for format in [SerializerFormat::MsgPack, SerializerFormat::Json] {
        let serializer = Serializer::new(format, &[]);
        let Ok(message) = serializer.decode(data) else { continue };
        check(&serializer, &message);
    }
    json_as_serde_has_it(data);
});

fn check(serializer: &Serializer, message: &Message) {
    let keys: std::collections::HashSet<_> = message.fields.iter().map(|(key, _)| key).collect();
    assert_eq!(keys.len(), message.fields.len(), "no key stands twice");
    assert!(message.fields.iter().all(|(key, _)| key != "type"));
    let written = match serializer.encode(message) {
        Ok(written) => written,
        // Python's writers stop before its readers do.
        Err(error) => return assert_eq!(error, EncodeError::TooDeep),
    };
    let again = serializer.decode(&written).unwrap();
    // Compared as text, for not-a-number is not equal to itself.
    assert_eq!(format!("{again:?}"), format!("{message:?}"));
    assert_eq!(serializer.encode(&again), Ok(written));

    for (_, value) in &message.fields {
        let mut json = Vec::new();
        value.write_json(&mut json);
        if let Err(error) = serde_json::from_slice::<serde_json::Value>(&json) {
            assert!(error.to_string().contains("recursion limit"), "{error}: {}", json.escape_ascii());
        }
    }
}

/// What serde takes for a message is one, and the same.
fn json_as_serde_has_it(data: &[u8]) {
    let Ok(serde_json::Value::Object(mut object)) = serde_json::from_slice(data) else { return };
    // Python looks at where zeros are to find UTF-16, which serde does not know.
    if data.iter().take(4).any(|&byte| byte == 0) {
        return;
    }
    let Some(serde_json::Value::String(kind)) = object.shift_remove("type") else { return };
    let message = Serializer::new(SerializerFormat::Json, &[]).decode(data).unwrap();
    assert_eq!(message.kind, kind);
    assert_eq!(message.fields.len(), object.len());
    for ((key, value), (serde_key, serde_value)) in message.fields.iter().zip(object) {
        assert_eq!(*key, serde_key);
        assert!(is_same(value, &Value::from(serde_value)), "{value:?}");
    }
}

/// Serde has a fraction in `-0`, which is a whole number as Python reads it.
fn is_same(ours: &Value, theirs: &Value) -> bool {
    match (ours, theirs) {
        (Value::List(ours), Value::List(theirs)) => {
            ours.len() == theirs.len() && ours.iter().zip(theirs).all(|(a, b)| is_same(a, b))
        }
        (Value::Map(ours), Value::Map(theirs)) => {
            ours.len() == theirs.len()
                && ours.iter().zip(theirs).all(|((a, x), (b, y))| a == b && is_same(x, y))
        }
        (Value::Int(0), Value::Float(theirs)) => *theirs == 0.0,
        (ours, theirs) => ours == theirs,
    }
}
