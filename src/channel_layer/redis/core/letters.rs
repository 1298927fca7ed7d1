//! Letters on their way into the inboxes of one host, and what becomes of the messages in them.

use std::collections::HashSet;

use redis::Pipeline;

use crate::channel_layer::metrics::Op;
use crate::channel_layer::redis::core::post::{Bucket, POST};
use crate::channel_layer::redis::core::{Shard, clock};
use crate::channel_layer::redis::outbox::Settlement;
use crate::channel_layer::{Posted, Refusal, Sent};

/// Letters and bytes in one call of the script, which keeps Redis from everything else.
const LETTERS_MAX: usize = 1024;
const LETTERS_BYTES: usize = 1024 * 1024;

/// Letters for the inboxes of one host.
#[derive(Default)]
pub(super) struct Post {
    pub(super) inboxes: Vec<String>,
    pub(super) letters: Vec<Letter>,
    pub(super) bytes: usize,
}

pub(super) struct Letter {
    /// The place of its message in the batch.
    message: usize,
    pub(super) op: Op,
    /// The place of its inbox.
    pub(super) inbox: usize,
    capacity: u64,
    /// For how many members of the group it is.
    members: u64,
    member: Vec<u8>,
}

impl Post {
    pub(super) fn add(&mut self, message: usize, op: Op, bucket: &Bucket<'_>, member: Vec<u8>) {
        let known = self.inboxes.iter().position(|inbox| *inbox == bucket.inbox);
        let inbox = known.unwrap_or_else(|| {
            self.inboxes.push(bucket.inbox.clone());
            self.inboxes.len() - 1
        });
        self.bytes += member.len();
        let members = bucket.channels.len() as u64;
        self.letters.push(Letter { message, op, inbox, capacity: bucket.capacity, members, member });
    }

    pub(super) fn is_full(&self) -> bool {
        LETTERS_MAX <= self.letters.len() || LETTERS_BYTES <= self.bytes
    }

    pub(super) fn commands(&self, shard: &Shard) -> Pipeline {
        let expiry = shard.common.envelope.expiry;
        let oldest = clock::now_whole().saturating_sub(expiry);
        let mut commands = Pipeline::with_capacity(self.inboxes.len() + 1);
        for inbox in &self.inboxes {
            commands.cmd("ZREMRANGEBYSCORE").arg(inbox).arg(0).arg(oldest);
        }
        let command = commands.cmd("EVAL").arg(POST).arg(self.inboxes.len()).arg(&self.inboxes).arg(expiry);
        let mut last = None;
        for letter in &self.letters {
            // The letters of one message have one time.
            let time = match last.take() {
                Some((message, time)) if message == letter.message => time,
                _ => clock::text(shard.common.clock.next()),
            };
            command.arg(letter.inbox + 1).arg(letter.capacity).arg(&time).arg(&letter.member);
            last = Some((letter.message, time));
        }
        commands
    }

    /// Takes the letters at some places out.
    pub(super) fn keep(&mut self, places: &HashSet<usize>) -> Vec<Letter> {
        let letters = std::mem::take(&mut self.letters).into_iter().enumerate();
        letters.filter(|(place, _)| places.contains(place)).map(|(_, letter)| letter).collect()
    }
}

/// What became of the messages of a batch. The first failure of each counts.
pub(super) struct Outcomes(Vec<(Posted, Option<Refusal>)>);

impl Outcomes {
    pub(super) fn new(messages: usize) -> Self {
        Self(vec![(Posted::default(), None); messages])
    }

    /// A message is for some members more, who share an inbox.
    pub(super) fn address(&mut self, message: usize, bucket: &Bucket<'_>) {
        if let Some((posted, _)) = self.0.get_mut(message) {
            posted.inboxes += 1;
            posted.members += bucket.channels.len() as u64;
        }
    }

    /// These letters have found no room.
    pub(super) fn leave_out(&mut self, letters: &[Letter]) {
        for letter in letters {
            if let Some((posted, _)) = self.0.get_mut(letter.message) {
                posted.inboxes_full += 1;
                posted.members_full += letter.members;
            }
        }
    }

    pub(super) fn fail(&mut self, message: usize, refusal: Refusal) {
        if let Some((_, outcome @ None)) = self.0.get_mut(message) {
            *outcome = Some(refusal);
        }
    }

    /// These letters could not be put into their inboxes.
    pub(super) fn lose(&mut self, letters: &[Letter], refusal: Refusal) {
        for letter in letters {
            if let Some((posted, _)) = self.0.get_mut(letter.message) {
                posted.inboxes_lost += 1;
                posted.members_lost += letter.members;
            }
            self.fail(letter.message, refusal);
        }
    }

    pub(super) fn settlements(self) -> impl Iterator<Item = Settlement> {
        self.0.into_iter().map(|(posted, refusal)| {
            let reached = refusal.is_none() || posted.inboxes_reached() != 0;
            Settlement { sent: reached.then_some(Sent::Inboxes(posted)), refusal }
        })
    }
}
