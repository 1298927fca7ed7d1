//! `[trust]`.

use insta::assert_snapshot;

use super::*;

#[test]
fn trusted_proxies_are_networks_and_come_with_their_header() {
    assert_snapshot!(beside("[trust]\nproxies = ['10.0.0.1/8', 'nginx']\nheaders = 'forwarded'\n"), @r#"
        error[E021]: `10.0.0.1/8`: the address has bits outside of its prefix
         --> routes.toml:3:12
          |
        3 | proxies = ['10.0.0.1/8', 'nginx']
          |            ^^^^^^^^^^^^
          |
          = help: write `10.0.0.0/8` for the network, `10.0.0.1` for the address

        error[E021]: `nginx`: not an address or a network
         --> routes.toml:3:26
          |
        3 | proxies = ['10.0.0.1/8', 'nginx']
          |                          ^^^^^^^
          |
          = help: write an address, `192.0.2.1`, a network, `10.0.0.0/8`, or `unix`
        "#);
    assert_snapshot!(beside("[trust]\nproxies = ['10.0.0.0/8']\n"), @r#"
        warning[W003]: no header of these proxies is read, so each of them counts as one client
         --> routes.toml:3:11
          |
        3 | proxies = ['10.0.0.0/8']
          |           ^^^^^^^^^^^^^^
          |
          = help: add `headers = "x-forwarded"` or `headers = "forwarded"`, whichever they set
        "#);
    assert_snapshot!(beside("[trust]\nheaders = 'x-forwarded'\n"), @r#"
        warning[W003]: no proxy is trusted, so these headers are never read
         --> routes.toml:3:11
          |
        3 | headers = 'x-forwarded'
          |           ^^^^^^^^^^^^^
          |
          = help: name the proxies, such as `proxies = ["127.0.0.1/32"]`
        "#);
}
