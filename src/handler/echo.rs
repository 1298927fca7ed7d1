//! `handler = "echo"`: sends back what comes.

use std::borrow::Cow;

use crate::handler::{Command, Event};

pub(super) fn on_event(event: Event<'_>, out: &mut dyn FnMut(Command<'_>)) {
    match event {
        Event::Text(text) => out(Command::Text(Cow::Borrowed(text))),
        Event::Binary(bytes) => out(Command::Binary(bytes)),
        Event::Connect(_) | Event::Refused(_) | Event::Disconnect => (),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_goes_back_in_its_own_kind() {
        let mut sent = Vec::new();
        on_event(Event::Text("hé"), &mut |command| sent.push(format!("{command:?}")));
        on_event(Event::Binary(&[0, 255]), &mut |command| sent.push(format!("{command:?}")));
        assert_eq!(sent, ["Text(\"hé\")", "Binary([0, 255])"]);
    }
}
