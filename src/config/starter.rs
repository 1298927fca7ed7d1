//! The file that `anteroom init` writes.

/// A commented file that works as it is: a chat and an echo on this machine, without Redis.
pub const STARTER: &str = include_str!("starter.toml");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::SecretSource;
    use crate::config::load;

    #[test]
    fn the_starter_file_is_taken_without_findings() {
        let no_secrets = |_: &SecretSource| Err("there are none".to_owned());
        let loaded = load("routes.toml", STARTER, &no_secrets)
            .unwrap_or_else(|findings| panic!("{}", findings.render(false)));
        assert_eq!(loaded.warnings.render(false), "");
    }
}
