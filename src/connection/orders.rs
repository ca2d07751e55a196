//! Commands of one connection: what the courier left in its mailbox goes out, what the device says goes to the courier.

use tokio::time::Instant;

use super::Transport;
use super::pump::{Desk, Pump, SCRATCH_BYTES};
use super::witness;
use crate::mailbox::{Letter, NextOrder, Signal};
use crate::protocol::message::{AppCommand, CommandAck, Refusal};
use crate::session::device::Step;

impl<S: Transport> Pump<S> {
    /// Takes the letters: those that end the connection at once, commands while the socket takes what is written. What
    /// it does not take yet waits in the mailbox, which is bounded, and not in the buffer.
    pub(super) fn take_letters(&mut self, desk: &mut Desk) {
        while let Some(letter) = self.place.mailbox().take_letter() {
            match letter {
                Letter::Close(reason) => self.close(reason, desk),
                Letter::Say(message) if !self.is_closing() => self.put(&message, desk),
                Letter::Say(_) | Letter::Command(_) => {}
            }
        }
        if !self.is_working() {
            return;
        }
        loop {
            if self.unsent.is_some() {
                // It writes again as soon as the socket takes something, and looks here then.
                return self.place.mailbox().keep(Signal::Letter);
            }
            if desk.out.len() >= SCRATCH_BYTES {
                // Written first; then another turn.
                return self.place.mailbox().signal(Signal::Letter);
            }
            match self.place.mailbox().take_order(Instant::now()) {
                NextOrder::Write(order) => order.message(|message| self.put(message, desk)),
                NextOrder::Stale => {
                    if let Some(courier) = &self.node.courier {
                        courier.recall(&self.place.key, self.place.mailbox());
                    }
                    return;
                }
                NextOrder::None => return,
            }
        }
    }

    /// An application wants a device to do something.
    pub(super) fn order(&mut self, command: AppCommand<'_>, desk: &mut Desk) {
        let key = command.key.clone().into_owned();
        let taken = self.node.apps.take(self.place.mailbox(), self.place.key.tenant(), command);
        if let Err((code, message)) = taken {
            let refusal = Refusal { code, message: message.into(), seq: None, id: Some(key) };
            let step = self.session.refuse(refusal, &self.node.limits, desk.now);
            self.act(step, desk);
        }
    }

    /// The device said something about a command.
    pub(super) fn answer(&mut self, ack: &CommandAck<'_>, desk: &mut Desk) {
        match &self.node.courier {
            Some(courier) => courier.answered(&self.place.key, self.place.mailbox(), ack),
            None => {
                let step = self.session.guess(&self.node.limits, desk.now);
                self.act(step, desk);
            }
        }
    }

    /// The courier found that an answer was a guess, and counted it.
    pub(super) fn act_on_guess(&mut self, step: Step<'_>, desk: &mut Desk) {
        match step {
            Step::Guess { line } => witness::guessed(&self.node, &self.place, line, false, desk.now),
            step => self.act(step, desk),
        }
    }
}
