//! `[[listener]]`.

use insta::assert_snapshot;

use super::*;

#[test]
fn an_address_that_is_none_is_answered_with_one() {
    assert_snapshot!(
        beside("[server]\nadmin = '9180'\n[[listener]]\nname = 'a'\naddress = 'localhost:80'\n[[listener]]\nname = 'b'\naddress = '::1'\n"),
        @r#"
        error[E015]: `9180` is no address to listen on
         --> routes.toml:3:9
          |
        3 | admin = '9180'
          |         ^^^^^^
          |
          = help: write `127.0.0.1:9180` for this machine alone, `0.0.0.0:9180` for every interface

        error[E015]: `localhost:80` is no address to listen on
         --> routes.toml:6:11
          |
        6 | address = 'localhost:80'
          |           ^^^^^^^^^^^^^^
          |
          = help: write `127.0.0.1:80`

        error[E015]: `::1` is no address to listen on
         --> routes.toml:9:11
          |
        9 | address = '::1'
          |           ^^^^^
          |
          = help: add the port: `[::1]:8000`
        "#
    );
}

#[test]
fn a_unix_socket_has_a_path_and_a_socket_handed_over_a_name() {
    assert_snapshot!(
        beside("[[listener]]\nname = 'a'\naddress = 'unix:a.sock'\n[[listener]]\nname = 'b'\naddress = 'fd:'\n"),
        @r#"
        error[E015]: the path of a UNIX socket begins with a slash
         --> routes.toml:4:11
          |
        4 | address = 'unix:a.sock'
          |           ^^^^^^^^^^^^^
          |
          = help: write a whole path, such as `unix:/run/anteroom/public.sock`

        error[E015]: this does not say which of the sockets handed over is meant
         --> routes.toml:7:11
          |
        7 | address = 'fd:'
          |           ^^^^^
          |
          = help: write its name (`FileDescriptorName=` in the unit) or its number, from 0: `fd:public`
        "#);
    let long = format!("unix:/{}", "x".repeat(107));
    assert_snapshot!(beside(&format!("[[listener]]\nname = 'a'\naddress = '{long}'\n")), @r#"
        error[E015]: the path of a UNIX socket has at most 107 bytes
         --> routes.toml:4:11
          |
        4 | address = 'unix:/xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx'
          |           ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
          |
          = help: write a whole path, such as `unix:/run/anteroom/public.sock`
        "#);
    assert_snapshot!(
        beside("[[listener]]\nname = 'a'\naddress = 'unix:/a'\nmode = '0988'\n[[listener]]\nname = 'b'\naddress = '127.0.0.1:1'\nmode = '0660'\n[[listener]]\nname = 'c'\naddress = 'unix:/a'\n"),
        @r#"
        error[E009]: `0988` is no file mode
         --> routes.toml:5:8
          |
        5 | mode = '0988'
          |        ^^^^^^
          |
          = help: write it in octal, such as `"0660"` for the owner and the group

        error[E010]: `mode` is for the file of a UNIX socket, and this listener makes none
         --> routes.toml:9:8
          |
        9 | mode = '0660'
          |        ^^^^^^

        error[E012]: the address `unix:/a` is already taken
          --> routes.toml:12:11
           |
         4 | address = 'unix:/a'
           |           --------- taken here
        ...
        12 | address = 'unix:/a'
           |           ^^^^^^^^^
        "#);
}

#[test]
fn an_address_that_is_a_default_is_taken_as_well() {
    assert_snapshot!(beside("[[listener]]\nname = 'a'\naddress = '0.0.0.0:9180'\n"), @r#"
        error[E012]: the address `0.0.0.0:9180` is already taken
         --> routes.toml:4:11
          |
        4 | address = '0.0.0.0:9180'
          |           ^^^^^^^^^^^^^^
          |
          = help: `admin` is `127.0.0.1:9180` when it is left out; write another here, or as `admin` in [server]
        "#);
    assert_snapshot!(beside("[server]\nadmin = '127.0.0.1:8000'\n"), @r#"
        error[E012]: the address `127.0.0.1:8000` is already taken
         --> routes.toml:3:9
          |
        3 | admin = '127.0.0.1:8000'
          |         ^^^^^^^^^^^^^^^^
          |
          = help: a file without `[[listener]]` listens on `127.0.0.1:8000`; write another here, or a `[[listener]]`
        "#);
    for free in [
        "[server]\nadmin = '127.0.0.1:9181'\n[[listener]]\nname = 'a'\naddress = '127.0.0.1:9180'\n",
        "[server]\nadmin = '127.0.0.1:8000'\n[[listener]]\nname = 'a'\naddress = '127.0.0.1:8001'\n",
    ] {
        assert_eq!(beside(free), "", "{free}");
    }
}

#[test]
fn names_and_addresses_are_taken_once() {
    assert_snapshot!(
        beside("[[listener]]\nname = 'a'\naddress = '127.0.0.1:9280'\n[[listener]]\nname = 'a'\naddress = '0.0.0.0:9280'\n"),
        @r#"
        error[E012]: the listener name `a` stands here a second time
         --> routes.toml:6:8
          |
        3 | name = 'a'
          |        --- first here
        ...
        6 | name = 'a'
          |        ^^^

        error[E012]: the address `0.0.0.0:9280` is already taken
         --> routes.toml:7:11
          |
        4 | address = '127.0.0.1:9280'
          |           ---------------- taken here
        ...
        7 | address = '0.0.0.0:9280'
          |           ^^^^^^^^^^^^^^
        "#
    );
    assert_snapshot!(beside(ROUTE), @r#"
        error[E012]: the route name `echo` stands here a second time
         --> routes.toml:9:8
          |
        4 | name = 'echo'
          |        ------ first here
        ...
        9 | name = 'echo'
          |        ^^^^^^
        "#);
}

#[test]
fn a_proxy_header_needs_a_trusted_proxy_that_can_come() {
    let listener = |address: &str| {
        format!("[[listener]]\nname = 'a'\naddress = '{address}'\nproxy_protocol = 'require'\n")
    };
    assert_snapshot!(beside(&listener("127.0.0.1:1")), @r#"
        error[E011]: a PROXY header counts from trusted proxies alone, and none of them comes here
         --> routes.toml:5:18
          |
        5 | proxy_protocol = 'require'
          |                  ^^^^^^^^^
          |
          = help: name them in [trust], such as `proxies = ["10.0.0.0/8"]`
        "#);
    assert_snapshot!(beside(&format!("{}[trust]\nproxies = ['10.0.0.0/8']\n", listener("unix:/a"))), @r#"
        error[E011]: a PROXY header counts from trusted proxies alone, and none of them comes here
         --> routes.toml:5:18
          |
        5 | proxy_protocol = 'require'
          |                  ^^^^^^^^^
          |
          = help: name them in [trust], such as `proxies = ["unix"]`
        "#);
    for (address, proxies) in [("127.0.0.1:1", "10.0.0.1"), ("unix:/a", "unix"), ("fd:a", "unix")] {
        // It names the client, so that no other header is missed.
        assert_eq!(beside(&format!("{}[trust]\nproxies = ['{proxies}']\n", listener(address))), "");
    }
}

#[test]
fn keys_of_tls_need_a_certificate() {
    assert_snapshot!(
        beside("[[listener]]\nname = 'a'\naddress = '127.0.0.1:1'\nhttp2 = true\nclient_ca = 'ca.pem'\n[[listener]]\nname = 'b'\naddress = '127.0.0.1:2'\ntls = []\nclient_auth = 'request'\n"),
        @r#"
        error[E010]: `http2` has no use without `tls`
         --> routes.toml:5:9
          |
        5 | http2 = true
          |         ^^^^
          |
          = help: HTTP/2 is agreed on in the TLS handshake; add `tls = [{ cert = "…", key = "…" }]` or leave this out

        error[E010]: `client_ca` has no use without `tls`
         --> routes.toml:6:13
          |
        6 | client_ca = 'ca.pem'
          |             ^^^^^^^^
          |
          = help: clients show their certificates in the TLS handshake; add `tls = [{ cert = "…", key = "…" }]` or leave this out

        error[E014]: `tls` has no certificate
          --> routes.toml:10:7
           |
        10 | tls = []
           |       ^^
           |
           = help: write `tls = [{ cert = "certs/a.pem", key = "certs/a.key" }]`, or leave it out for none

        error[E011]: `client_auth` needs the authorities that sign the certificates of clients
          --> routes.toml:11:15
           |
        11 | client_auth = 'request'
           |               ^^^^^^^^^
           |
           = help: add `client_ca = "certs/clients.pem"`
        "#);
    assert_snapshot!(
        beside("[[listener]]\nname = 'a'\naddress = '127.0.0.1:1'\ntls = [{ cert = 'a.pem' }, 'b.pem', { certificate = 'c' }]\n"),
        @r#"
        error[E006]: this entry of `tls` has no `key`
         --> routes.toml:5:8
          |
        5 | tls = [{ cert = 'a.pem' }, 'b.pem', { certificate = 'c' }]
          |        ^^^^^^^^^^^^^^^^^^

        error[E026]: `a.pem`: no such file
         --> routes.toml:5:17
          |
        5 | tls = [{ cert = 'a.pem' }, 'b.pem', { certificate = 'c' }]
          |                 ^^^^^^^

        error[E005]: `tls` is a list of tables, not a string
         --> routes.toml:5:28
          |
        5 | tls = [{ cert = 'a.pem' }, 'b.pem', { certificate = 'c' }]
          |                            ^^^^^^^
          |
          = help: write `tls = [{ cert = "certs/a.pem", key = "certs/a.key" }]`

        error[E006]: this entry of `tls` has no `cert`
         --> routes.toml:5:37
          |
        5 | tls = [{ cert = 'a.pem' }, 'b.pem', { certificate = 'c' }]
          |                                     ^^^^^^^^^^^^^^^^^^^^^

        error[E006]: this entry of `tls` has no `key`
         --> routes.toml:5:37
          |
        5 | tls = [{ cert = 'a.pem' }, 'b.pem', { certificate = 'c' }]
          |                                     ^^^^^^^^^^^^^^^^^^^^^

        error[E003]: `certificate` is no setting of an entry of `tls`
         --> routes.toml:5:39
          |
        5 | tls = [{ cert = 'a.pem' }, 'b.pem', { certificate = 'c' }]
          |                                       ^^^^^^^^^^^
          |
          = help: it is `cert` here
        "#);
}

#[test]
fn a_certificate_goes_with_its_key_and_none_of_it_is_shown() {
    let issue = || {
        let key = rcgen::KeyPair::generate().unwrap();
        let names = vec!["localhost".to_owned()];
        let cert = rcgen::CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
        (cert.pem(), key.serialize_pem())
    };
    let ((cert, key), (other_cert, other_key)) = (issue(), issue());
    let files = |source: &SecretSource| match source {
        SecretSource::File(name) => match name.as_str() {
            "a.pem" => Ok(cert.clone()),
            "a.key" => Ok(key.clone()),
            "b.pem" => Ok(other_cert.clone()),
            "b.key" => Ok(other_key.clone()),
            "empty" => Ok(String::new()),
            _ => Err("no such file".to_owned()),
        },
        SecretSource::Env(_) => Err("it is not set".to_owned()),
    };
    let listener = |keys: &str| {
        let text = format!("version = 1\n[[listener]]\nname = 'a'\naddress = '127.0.0.1:1'\n{keys}\n{ROUTE}");
        load("routes.toml", &text, &files)
    };
    let wrong = listener(
        "tls = [{ cert = 'a.pem', key = 'b.key' }, { cert = 'empty', key = 'a.key' }, { cert = 'b.pem', key = 'gone' }, { cert = 'b.pem', key = 'empty' }]\nclient_ca = 'empty'",
    );
    let wrong = wrong.unwrap_err().render(false);
    assert!(!wrong.contains("PRIVATE KEY-----\n"));
    assert_snapshot!(wrong, @r#"
        error[E026]: `b.key`: the private key is not that of the certificate
         --> routes.toml:5:32
          |
        5 | tls = [{ cert = 'a.pem', key = 'b.key' }, { cert = 'empty', key = 'a.key' }, { cert = 'b.pem', key = 'gone' }, { cert = 'b.pem', key ...
          |                 -------        ^^^^^^^
          |                 |
          |                 the other half

        error[E026]: `empty`: there is no certificate in it (`-----BEGIN CERTIFICATE-----`)
         --> routes.toml:5:52
          |
        5 | tls = [{ cert = 'a.pem', key = 'b.key' }, { cert = 'empty', key = 'a.key' }, { cert = 'b.pem', key = 'gone' }, { cert = 'b.pem', key ...
          |                                                    ^^^^^^^        ------- the other half

        error[E026]: `gone`: no such file
         --> routes.toml:5:102
          |
        5 | tls = [{ cert = 'a.pem', key = 'b.key' }, { cert = 'empty', key = 'a.key' }, { cert = 'b.pem', key = 'gone' }, { cert = 'b.pem', key ...
          |                                                                                                      ^^^^^^

        error[E012]: the certificate `b.pem` stands here a second time
         --> routes.toml:5:121
          |
        5 | tls = [{ cert = 'a.pem', key = 'b.key' }, { cert = 'empty', key = 'a.key' }, { cert = 'b.pem', key = 'gone' }, { cert = 'b.pem', key ...
          |                                                                                       ------- first here                ^^^^^^^

        error[E026]: `empty`: there is no private key in it (`-----BEGIN PRIVATE KEY-----`)
         --> routes.toml:5:136
          |
        5 | ...'a.key' }, { cert = 'b.pem', key = 'gone' }, { cert = 'b.pem', key = 'empty' }]
          |                                                          -------        ^^^^^^^
          |                                                          |
          |                                                          the other half

        error[E026]: `empty`: there is no certificate in it (`-----BEGIN CERTIFICATE-----`)
         --> routes.toml:6:13
          |
        6 | client_ca = 'empty'
          |             ^^^^^^^
        "#);
    let keys = "tls = [{ cert = 'a.pem', key = 'a.key' }, { cert = 'b.pem', key = 'b.key' }]\nhttp2 = false\nclient_ca = 'b.pem'\nclient_auth = 'request'";
    let right = listener(keys).unwrap().config;
    assert_eq!(right.listeners[0].tls.len(), 2);
    let printed = print(&right);
    assert!(!printed.contains("PRIVATE"));
    let listener = printed.split("\n\n").find(|part| part.starts_with("[[listener]]")).unwrap();
    assert_snapshot!(listener, @r#"
        [[listener]]
        name = "a"
        address = "127.0.0.1:1"
        proxy_protocol = "off"
        tls = [{ cert = "a.pem", key = "a.key" }, { cert = "b.pem", key = "b.key" }]
        http2 = false
        client_ca = "b.pem"
        client_auth = "request"
        "#);
    assert_eq!(load("routes.toml", &printed, &files).unwrap().config.listeners, right.listeners);
}
