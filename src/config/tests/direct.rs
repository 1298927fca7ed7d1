//! `direct`, `announce` and `reply_channel` of a room.

use insta::assert_snapshot;

use super::*;

#[test]
fn the_channel_of_a_socket_takes_known_events_of_a_room_with_a_group() {
    let layer = "[layer]\nbackend = 'channels_redis.core'\n";
    let room = |keys: &str| in_room(&format!("path = '/'\n{keys}\n{layer}"));
    let fine = "group = 'a'\nreceive = { reply_channel = true }\n\
        direct = ['websocket.send', 'websocket.close', 'edge.group_add', 'edge.group_discard', 'chat_message']\n\
        announce = { connect = 'chat.joined', disconnect = 'chat.left' }";
    assert_eq!(room(fine), "");
    assert_eq!(room("group = 'a'\npublish = false\ndirect = []\nannounce = { connect = 'x' }"), "");
    assert_snapshot!(room("direct = ['websocket.send']\nannounce = { connect = 'chat.joined' }"), @r#"
        error[E011]: `direct` has no use in a room without a `group`: nobody else is told of its sockets
         --> routes.toml:6:10
          |
        6 | direct = ['websocket.send']
          |          ^^^^^^^^^^^^^^^^^^
          |
          = help: add `group`

        error[E011]: `announce` has no use in a room without a `group`: nobody else is told of its sockets
         --> routes.toml:7:12
          |
        7 | announce = { connect = 'chat.joined' }
          |            ^^^^^^^^^^^^^^^^^^^^^^^^^^^
          |
          = help: add `group`
        "#);
    assert_snapshot!(
        room("group = 'a'\ndirect = ['websocket.sent', 'kick', 'edge.group_add', 'edge.group_add']\nannounce = {}"),
        @r#"
        error[E007]: `websocket.sent` is no event for the channel of a socket
         --> routes.toml:7:11
          |
        7 | direct = ['websocket.sent', 'kick', 'edge.group_add', 'edge.group_add']
          |           ^^^^^^^^^^^^^^^^
          |
          = help: did you mean `websocket.send`?

        error[E007]: `kick` is no event for the channel of a socket
         --> routes.toml:7:29
          |
        7 | direct = ['websocket.sent', 'kick', 'edge.group_add', 'edge.group_add']
          |                             ^^^^^^
          |
          = help: it may be `websocket.send`, `websocket.close`, `edge.group_add` or `edge.group_discard`, or an event of `deliver`

        error[E012]: the event type `edge.group_add` stands here a second time
         --> routes.toml:7:55
          |
        7 | direct = ['websocket.sent', 'kick', 'edge.group_add', 'edge.group_add']
          |                                     ----------------  ^^^^^^^^^^^^^^^^
          |                                     |
          |                                     first here

        error[E014]: `announce` says nothing
         --> routes.toml:8:12
          |
        8 | announce = {}
          |            ^^
          |
          = help: write `announce = { connect = "chat.joined", disconnect = "chat.left" }`, or leave it out
        "#
    );
    assert_snapshot!(
        room("group = 'a'\nreceive = { type = 'edge.group_add', reply_channel = true }\nannounce = { disconnect = '_gone' }"),
        @r#"
        error[E018]: the event type `edge.group_add` is reserved
         --> routes.toml:7:20
          |
        7 | receive = { type = 'edge.group_add', reply_channel = true }
          |                    ^^^^^^^^^^^^^^^^
          |
          = help: `edge.group_add` and `edge.group_discard` are for `direct`, and only from the layer

        error[E011]: nothing may be sent to the channel that `reply_channel` names
         --> routes.toml:7:54
          |
        7 | receive = { type = 'edge.group_add', reply_channel = true }
          |                                                      ^^^^
          |
          = help: add `direct = ["websocket.send"]` to the route, or leave `reply_channel` out

        error[E018]: the event type `_gone` begins with `.` or `_`, which no consumer may handle
         --> routes.toml:8:27
          |
        8 | announce = { disconnect = '_gone' }
          |                           ^^^^^^^
          |
          = help: begin with a letter
        "#
    );
}

#[test]
fn no_client_chooses_the_channel_that_it_is_answered_on() {
    let room = |keys: &str| in_room(&format!("path = '/'\ngroup = 'a'\n{keys}\n"));
    assert_eq!(room("deliver = { 'chat.message' = { pick = ['reply_channel'] } }"), "");
    assert_snapshot!(room("receive = { pick = ['a', 'reply_channel'] }"), @r#"
        error[E018]: a client could choose the channel that it is answered on, which may be anyone's
         --> routes.toml:7:26
          |
        7 | receive = { pick = ['a', 'reply_channel'] }
          |                          ^^^^^^^^^^^^^^^
          |
          = help: write `reply_channel = true` in place of it: then the server names the socket's own
        "#);
    assert_snapshot!(room("format = 'text'\nreceive = { pick = ['reply_channel'] }"), @r#"
        error[E018]: a client could choose the channel that it is answered on, which may be anyone's
         --> routes.toml:8:21
          |
        8 | receive = { pick = ['reply_channel'] }
          |                     ^^^^^^^^^^^^^^^
          |
          = help: write `reply_channel = true` in place of it: then the server names the socket's own
        "#);
}

#[test]
fn a_channel_that_nobody_can_send_to_is_a_warning() {
    let room =
        |layer: &str| in_room(&format!("path = '/'\ngroup = 'a'\ndirect = ['websocket.send']\n{layer}"));
    assert_eq!(room("[layer]\nbackend = 'channels_redis.pubsub'\n"), "");
    assert_snapshot!(room(""), @r#"
        warning[W003]: nobody can send to a single socket as long as the layer is in memory
         --> routes.toml:7:10
          |
        7 | direct = ['websocket.send']
          |          ^^^^^^^^^^^^^^^^^^
          |
          = help: take a `backend` on Redis in [layer], as Django has it, or leave `direct` out
        "#);
    assert_snapshot!(room("[layer]\nbackend = 'memory'\n"), @r#"
        warning[W003]: nobody can send to a single socket as long as the layer is in memory
         --> routes.toml:7:10
          |
        7 | direct = ['websocket.send']
          |          ^^^^^^^^^^^^^^^^^^
        8 | [layer]
        9 | backend = 'memory'
          |           -------- in memory
          |
          = help: take a `backend` on Redis in [layer], as Django has it, or leave `direct` out
        "#);
}
