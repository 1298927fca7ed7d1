//! Which of several hosts holds a name.

/// The index of the host for a value, below `hosts` (which is at least 1).
///
/// Rule: `channels_redis` with several hosts: the low 12 bits of the CRC-32 of the name divide the ring
/// evenly. The pub/sub layer hashes the whole Redis channel name.
pub(super) fn host_index(value: &[u8], hosts: usize) -> usize {
    if hosts <= 1 {
        return 0;
    }
    let slot = usize::try_from(crc32(value) & 0xFFF).unwrap_or(0);
    slot * hosts / 4096
}

/// CRC-32 as in zlib (polynomial 0xEDB88320, reflected).
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fall_on_the_hosts_that_python_picks() {
        let mut seen = 0;
        for line in include_str!("../../../tests/fixtures/shard_cases.jsonl").lines() {
            let row: serde_json::Value = serde_json::from_str(line).unwrap();
            let value = row["value"].as_str().unwrap().as_bytes();
            let hosts = usize::try_from(row["hosts"].as_u64().unwrap()).unwrap();
            assert_eq!(u64::from(crc32(value)), row["crc32"].as_u64().unwrap(), "{row}");
            assert_eq!(
                host_index(value, hosts),
                usize::try_from(row["index"].as_u64().unwrap()).unwrap(),
                "{row}"
            );
            seen += 1;
        }
        assert_eq!(seen, 74);
    }
}
