//! `handler = "room"`.

use insta::assert_snapshot;

use super::*;

#[test]
fn a_room_that_says_little_is_the_one_of_the_tutorial() {
    let config = config(
        "version = 1
[[route]]
name = 'json'
path = '/json'
handler = 'room'
[[route]]
name = 'typed'
path = '/typed'
handler = 'room'
receive = { type = 'a.b', pick = ['c'] }
[[route]]
name = 'text'
path = '/text'
handler = 'room'
format = 'text'
[[route]]
name = 'raw'
path = '/raw'
handler = 'room'
format = 'raw'
",
    );
    let shown: Vec<_> = config
        .routes
        .iter()
        .map(|route| {
            let HandlerConfig::Room(room) = &route.handler else { panic!("a room") };
            let (receive, deliver) = (&room.receive, &room.deliver[0]);
            assert_eq!((&receive.kind, &receive.pick), (&deliver.kind, &deliver.pick));
            assert_eq!(room.username.as_str(), "Anonymous");
            format!("{} {} {:?} {:?}", route.name, receive.kind, receive.pick, room.welcome)
        })
        .collect();
    assert_eq!(
        shown,
        [
            r#"json chat.message ["message"] None"#,
            r#"typed a.b ["c"] None"#,
            r#"text chat.message ["message"] Some("[Welcome {username}!]")"#,
            "raw room.message [] None",
        ]
    );
}

#[test]
fn a_template_knows_the_captures_of_its_pattern() {
    assert_snapshot!(in_room("re_path = '^(?P<room_name>[a-z]+)/$'\ngroup = 'chat_{room}_{roomname}'"), @r#"
        error[E017]: the pattern captures no `room`
         --> routes.toml:6:15
          |
        5 | re_path = '^(?P<room_name>[a-z]+)/$'
          |           -------------------------- the pattern
        6 | group = 'chat_{room}_{roomname}'
          |               ^^^^^^
          |
          = help: capture it with `(?P<room>[A-Za-z0-9_-]{1,64})`

        error[E017]: the pattern captures no `roomname`
         --> routes.toml:6:22
          |
        5 | re_path = '^(?P<room_name>[a-z]+)/$'
          |           -------------------------- the pattern
        6 | group = 'chat_{room}_{roomname}'
          |                      ^^^^^^^^^^
          |
          = help: did you mean `{room_name}`?
        "#);
    assert_snapshot!(in_room("path = '/'\ngroup = 'chat_{room'"), @r#"
        error[E017]: `{` is not closed
         --> routes.toml:6:15
          |
        6 | group = 'chat_{room'
          |               ^^^^^
          |
          = help: close it with `}`, or write `{{` for the brace itself
        "#);
    assert_snapshot!(in_room("path = '/'\nformat = 'text'\nusername = '{name}'\nwelcome = 'Hello {name}'"), @r#"
        error[E017]: the pattern captures no `name`
         --> routes.toml:7:13
          |
        5 | path = '/'
          |        --- the pattern
        6 | format = 'text'
        7 | username = '{name}'
          |             ^^^^^^
          |
          = help: capture it with `(?P<name>[A-Za-z0-9_-]{1,64})`

        error[E017]: the welcome knows no `{name}`
         --> routes.toml:8:18
          |
        8 | welcome = 'Hello {name}'
          |                  ^^^^^^
          |
          = help: it knows `{username}` alone
        "#);
}

#[test]
fn a_group_name_holds_what_channels_allows() {
    assert_snapshot!(in_room("path = '/'\ngroup = 'chat room'"), @r#"
        error[E018]: ` ` may not stand in a group name
         --> routes.toml:6:14
          |
        6 | group = 'chat room'
          |              ^
          |
          = help: a group name has ASCII letters, digits, `-`, `_` and `.`
        "#);
    assert_snapshot!(in_room("path = '/'\ngroup = ''"), @r#"
        error[E014]: `group` is empty
         --> routes.toml:6:9
          |
        6 | group = ''
          |         ^^
          |
          = help: leave it out for a room of the socket's own
        "#);
    assert_snapshot!(in_room(&format!("path = '/'\ngroup = '{}'", "a".repeat(100))), @r#"
        error[E018]: a group name has at most 99 characters, not 100
         --> routes.toml:6:9
          |
        6 | group = 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa'
          |         ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
        "#);
}

#[test]
fn a_capture_that_no_group_name_may_hold_is_a_warning() {
    assert_snapshot!(in_room("re_path = '^chat/(?P<room_name>\\w+)/$'\ngroup = 'chat_{room_name}'"), @r#"
        warning[W001]: capture `room_name` can hold characters that a group name may not
         --> routes.toml:5:18
          |
        5 | re_path = '^chat/(?P<room_name>\w+)/$'
          |                  ^^^^^^^^^^^^^^^^^^ matches `é` or `٣`, for example
        6 | group = 'chat_{room_name}'
          |               ----------- used here
          |
          = help: use [A-Za-z0-9_-]{1,64}; what does not fit is refused with `group_name`
        "#);
    assert_snapshot!(in_room("path = '/(.*)'\ngroup = 'all_{path}_{query.room}_{client}'"), @r#"
        warning[W001]: `{path}` can hold characters that a group name may not
         --> routes.toml:6:14
          |
        6 | group = 'all_{path}_{query.room}_{client}'
          |              ^^^^^^ a path holds `/`
          |
          = help: use a capture of [A-Za-z0-9_-]{1,64}; what does not fit is refused with `group_name`

        warning[W001]: `{query.room}` can hold characters that a group name may not
         --> routes.toml:6:21
          |
        6 | group = 'all_{path}_{query.room}_{client}'
          |                     ^^^^^^^^^^^^ the client writes what it likes
          |
          = help: use a capture of [A-Za-z0-9_-]{1,64}; what does not fit is refused with `group_name`

        warning[W001]: `{client}` can hold characters that a group name may not
         --> routes.toml:6:34
          |
        6 | group = 'all_{path}_{query.room}_{client}'
          |                                  ^^^^^^^^ IPv6 addresses hold `:`
          |
          = help: use a capture of [A-Za-z0-9_-]{1,64}; what does not fit is refused with `group_name`
        "#);
}

#[test]
fn a_group_whose_name_can_be_too_long_or_empty_is_a_warning() {
    assert_snapshot!(in_room("re_path = '^(?P<room_name>[A-Za-z0-9_.-]+)/$'\ngroup = 'chat_{room_name}'"), @r#"
        warning[W001]: capture `room_name` can make a group name of more than 99 characters
         --> routes.toml:5:13
          |
        5 | re_path = '^(?P<room_name>[A-Za-z0-9_.-]+)/$'
          |             ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
        6 | group = 'chat_{room_name}'
          |               ----------- used here
          |
          = help: limit it, as `{1,64}` does; what does not fit is refused with `group_name`
        "#);
    assert_snapshot!(in_room("path = '/(?P<org>[a-z]{1,64})/(?P<room>[a-z]{1,64})'\ngroup = '{org}.{room}'"), @r#"
        warning[W001]: capture `room` can make a group name of more than 99 characters
         --> routes.toml:5:8
          |
        5 | path = '/(?P<org>[a-z]{1,64})/(?P<room>[a-z]{1,64})'
          |        ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
        6 | group = '{org}.{room}'
          |                ------ used here
          |
          = help: limit it, as `{1,34}` does; what does not fit is refused with `group_name`
        "#);
    assert_snapshot!(in_room("path = '/(?P<room>[a-z]{0,9})'\ngroup = '{room}'"), @r#"
        warning[W001]: the name of this group can be empty
         --> routes.toml:6:9
          |
        5 | path = '/(?P<room>[a-z]{0,9})'
          |        ----------------------- the pattern
        6 | group = '{room}'
          |         ^^^^^^^^
          |
          = help: put a text before it; an empty name is refused with `group_name`
        "#);
    let fine = [
        ("[a-z]{1,94}", "chat_{room}"),
        ("[a-z]{1,99}", "{room}"),
        ("[a-z]{0,9}", "chat_{room}"),
        ("[a-z]{1,49}", "{room}_{room}"),
        ("[a-z]{1,85}", "chat_{user}{room}"),
    ];
    for (class, group) in fine {
        assert_eq!(
            in_room(&format!("path = '/(?P<room>{class})'\ngroup = '{group}'")),
            "",
            "{class} {group}"
        );
    }
    let too_long = [("[a-z]{1,95}", "chat_{room}"), ("[a-z]{1,50}", "{room}{room}"), ("(?:ab)+", "{room}")];
    for (class, group) in too_long {
        let found = in_room(&format!("path = '/(?P<room>{class})'\ngroup = '{group}'"));
        assert_eq!(found.matches("warning[W001]").count(), 1, "{class} {group}: {found}");
    }
}

#[test]
fn events_have_a_type_and_members() {
    assert_snapshot!(
        in_room("path = '/'\nreceive = { type = '_private', pick = [] }\ndeliver = { chat.message = { pick = ['a'] } }\n"),
        @r#"
        error[E018]: the event type `_private` begins with `.` or `_`, which no consumer may handle
         --> routes.toml:6:20
          |
        6 | receive = { type = '_private', pick = [] }
          |                    ^^^^^^^^^^
          |
          = help: begin with a letter

        error[E014]: `pick` is empty
         --> routes.toml:6:39
          |
        6 | receive = { type = '_private', pick = [] }
          |                                       ^^
          |
          = help: name the members to pass on, such as `pick = ["message"]`

        error[E005]: the event type `chat.message` stands without quotes
         --> routes.toml:7:13
          |
        7 | deliver = { chat.message = { pick = ['a'] } }
          |             ^^^^^^^^^^^^
          |
          = help: write `"chat.message" = { … }`
        "#
    );
    assert_snapshot!(
        in_room("path = '/'\nreceive = { type = 'websocket.close', pick = ['type', ''] }\ndeliver = { 'a.b' = {}, 'a_b' = {} }\n"),
        @r#"
        error[E018]: the event type `websocket.close` is reserved
         --> routes.toml:6:20
          |
        6 | receive = { type = 'websocket.close', pick = ['type', ''] }
          |                    ^^^^^^^^^^^^^^^^^
          |
          = help: `websocket.send` and `websocket.close` are understood in every room, and only from the layer

        error[E018]: `type` is the type of the event itself and is set by `receive` and `deliver`
         --> routes.toml:6:47
          |
        6 | receive = { type = 'websocket.close', pick = ['type', ''] }
          |                                               ^^^^^^

        error[E018]: the name of a member must not be empty
         --> routes.toml:6:55
          |
        6 | receive = { type = 'websocket.close', pick = ['type', ''] }
          |                                                       ^^

        error[E012]: the event type `a_b` is delivered twice
         --> routes.toml:7:25
          |
        7 | deliver = { 'a.b' = {}, 'a_b' = {} }
          |             -----       ^^^^^
          |             |
          |             first here
          |
          = help: `.` and `_` are the same in an event type, as in the name of a consumer's method
        "#
    );
    assert_snapshot!(in_room("path = '/'\nformat = 'text'\nreceive = { pick = ['a', 'b'] }\ndeliver = {}\n"), @r#"
        error[E011]: a room with `format = "text"` picks one member
         --> routes.toml:7:20
          |
        7 | receive = { pick = ['a', 'b'] }
          |                    ^^^^^^^^^^
          |
          = help: name the one member that holds the line: `pick = ["message"]`

        error[E014]: `deliver` is empty, so no event would reach a client
         --> routes.toml:8:11
          |
        8 | deliver = {}
          |           ^^
          |
          = help: write `deliver = { "chat.message" = { pick = ["message"] } }`, or leave it out
        "#);
}

#[test]
fn a_room_that_does_not_deliver_what_it_receives_is_a_warning() {
    let room = |receive: &str, deliver: &str| {
        in_room(&format!("path = '/'\nreceive = {{ type = '{receive}' }}\ndeliver = {{ {deliver} }}\n"))
    };
    assert_snapshot!(room("chat.message", "'chat.line' = {}"), @r#"
        warning[W004]: no client hears what clients say: `deliver` does not list `chat.message`
         --> routes.toml:6:20
          |
        6 | receive = { type = 'chat.message' }
          |                    ^^^^^^^^^^^^^^
        7 | deliver = { 'chat.line' = {} }
          |           -------------------- the events that reach clients
          |
          = help: add `"chat.message" = { … }` to `deliver`
        "#);
    assert_eq!(room("chat.message", "'chat_message' = {}, 'a' = {}"), "");
    assert_eq!(in_room("path = '/'\nreceive = { pick = ['a'] }\ndeliver = { 'a' = {} }\n"), "");
    assert_eq!(in_room("path = '/'\ngroup = 'a'\npublish = false\ndeliver = { 'a' = {} }\n"), "");
}

#[test]
fn a_listen_only_room_receives_nothing() {
    assert_snapshot!(in_room("path = '/'\npublish = false\nreceive = { pick = ['message'] }\n"), @r#"
        error[E011]: without a `group`, a listen-only room never hears anything
         --> routes.toml:6:11
          |
        6 | publish = false
          |           ^^^^^
          |
          = help: add `group`, or leave `publish` out

        error[E011]: `receive` says what becomes of clients' messages, and this room takes none
         --> routes.toml:7:11
          |
        6 | publish = false
          |           ----- listen-only
        7 | receive = { pick = ['message'] }
          |           ^^^^^^^^^^^^^^^^^^^^^^
          |
          = help: leave one of the two out
        "#);
}
