//! `direct`, `announce` and `reply_channel` of a room.

use insta::assert_snapshot;

use super::*;

#[test]
fn the_channel_of_a_socket_takes_known_events_of_a_room_with_a_group() {
    let room = |keys: &str| in_room(&format!("path = '/'\n{keys}\n"));
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
    assert_snapshot!(
        room("group = 'a'\ndirect = ['websocket.send']\nreceive = { pick = ['a', 'reply_channel'], reply_channel = true }"),
        @r#"
        error[E011]: `reply_channel` cannot be set here and picked from what the client sends
         --> routes.toml:8:26
          |
        8 | receive = { pick = ['a', 'reply_channel'], reply_channel = true }
          |                          ^^^^^^^^^^^^^^^                   ---- set here
          |
          = help: leave one of the two out
        "#
    );
}
