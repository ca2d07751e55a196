//! From a delivery report back to the connection that waits for it, and the budgets of what is outstanding.
//!
//! A connection has a slot for as long as it lives or a record of it is outstanding. A [`Ticket`] names slot, the slot's
//! generation and the record's place in the connection's window, so that the log carries 64 bits and allocates nothing.
//! Reports are put on a list by the log's thread and handed out in one go by [`Receipts::hand_out`]: one wake a batch.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;

use crate::eventlog::{Deliveries, EventLog, Outcome, Record, Ticket};
use crate::limits::Limits;
use crate::mailbox::{Mailbox, WINDOW};
use crate::sync::lock;

const INDEX_BITS: u32 = 6;
const SLOT_BITS: u32 = 24;
const GENERATION_MASK: u64 = (1 << (64 - INDEX_BITS - SLOT_BITS)) - 1;
/// Reports whose room is kept from one hand-out to the next: an outage's end brings very many at once, and then no more.
const KEPT_REPORTS: usize = 8_192;
/// Slots looked at under one hold of the lock, where all are looked at.
const STRETCH: usize = 256;

/// Bytes taken and not yet stored, of one tenant or of the node.
#[derive(Debug)]
pub struct Budget {
    used: AtomicUsize,
    limit: usize,
}

impl Budget {
    fn new(limit: usize) -> Self {
        Self { used: AtomicUsize::new(0), limit }
    }

    fn reserve(&self, bytes: usize) -> bool {
        let before = self.used.fetch_add(bytes, Ordering::Relaxed);
        // One record is always let through an empty budget, however small the budget is.
        if before != 0 && before + bytes > self.limit {
            self.used.fetch_sub(bytes, Ordering::Relaxed);
            return false;
        }
        true
    }

    fn release(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Bytes in use.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Bytes allowed.
    pub fn limit(&self) -> usize {
        self.limit
    }
}

#[derive(Debug)]
struct Slot {
    generation: u64,
    occupant: Option<Occupant>,
}

#[derive(Debug)]
struct Occupant {
    mailbox: Arc<Mailbox>,
    tenant: Arc<Budget>,
    /// The connection has ended; the slot is free once nothing of it is outstanding.
    left: bool,
}

#[derive(Debug, Default)]
struct Slots {
    slots: Vec<Slot>,
    free: Vec<u32>,
}

impl Slots {
    fn occupant(&mut self, slot: u32, generation: u64) -> Option<&mut Occupant> {
        let slot = self.slots.get_mut(slot as usize)?;
        if slot.generation & GENERATION_MASK == generation { slot.occupant.as_mut() } else { None }
    }

    fn vacate(&mut self, number: u32) {
        if let Some(slot) = self.slots.get_mut(number as usize) {
            slot.occupant = None;
            slot.generation += 1;
            self.free.push(number);
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Report {
    ticket: Ticket,
    bytes: u32,
    refused: bool,
}

/// The budgets of tenants, also of some that nobody uses any more.
#[derive(Debug)]
struct Tenants {
    budgets: HashMap<Box<str>, Arc<Budget>>,
    /// With so many it is worth looking which are not used: twice those that were, the last time.
    crowded: usize,
}

impl Default for Tenants {
    fn default() -> Self {
        Self { budgets: HashMap::new(), crowded: 1_024 }
    }
}

/// Every connection of this node by number.
#[derive(Debug)]
pub struct Receipts {
    slots: Mutex<Slots>,
    reports: Mutex<Vec<Report>>,
    clerk: AtomicWaker,
    node: Budget,
    tenants: Mutex<Tenants>,
    tenant_limit: usize,
    parked: AtomicUsize,
    parked_limit: usize,
    connections: AtomicU32,
    /// Seats among them that are no connection's.
    clerks: AtomicU32,
    stored_total: AtomicU64,
}

/// A connection's place among the receipts; gives it back when dropped.
#[derive(Debug)]
pub struct Seat {
    receipts: Arc<Receipts>,
    mailbox: Arc<Mailbox>,
    tenant: Arc<Budget>,
    /// The ticket of its record 0: slot and generation.
    name: Ticket,
}

impl Receipts {
    /// With the budgets of `limits`.
    pub fn new(limits: &Limits) -> Self {
        Self {
            slots: Mutex::default(),
            reports: Mutex::default(),
            clerk: AtomicWaker::new(),
            node: Budget::new(limits.node_budget_bytes),
            tenants: Mutex::default(),
            tenant_limit: limits.tenant_budget_bytes,
            parked: AtomicUsize::new(0),
            parked_limit: limits.parked_bytes,
            connections: AtomicU32::new(0),
            clerks: AtomicU32::new(0),
            stored_total: AtomicU64::new(0),
        }
    }

    /// Gives a connection of `tenant` a slot.
    pub fn seat(self: &Arc<Self>, tenant: &str, mailbox: Arc<Mailbox>) -> Seat {
        let tenant = self.tenant(tenant);
        let mut slots = lock(&self.slots);
        let slot = slots.free.pop().unwrap_or_else(|| {
            slots.slots.push(Slot { generation: 0, occupant: None });
            // The number of connections is bounded far below 2^24, and a slot is used again.
            (slots.slots.len() - 1) as u32
        });
        let mut generation = 0;
        if let Some(place) = slots.slots.get_mut(slot as usize) {
            generation = place.generation & GENERATION_MASK;
            place.occupant = Some(Occupant { mailbox: Arc::clone(&mailbox), tenant: Arc::clone(&tenant), left: false });
        }
        self.connections.fetch_add(1, Ordering::Relaxed);
        Seat { receipts: Arc::clone(self), mailbox, tenant, name: pack(slot, generation, 0) }
    }

    /// Gives the node itself a slot, for as long as it lives, for records that come from no connection.
    pub fn clerk(self: &Arc<Self>, mailbox: Arc<Mailbox>) -> Seat {
        self.clerks.fetch_add(1, Ordering::Relaxed);
        // No tenant has a slash in its name.
        self.seat("/", mailbox)
    }

    fn tenant(&self, tenant: &str) -> Arc<Budget> {
        let mut tenants = lock(&self.tenants);
        if let Some(budget) = tenants.budgets.get(tenant) {
            return Arc::clone(budget);
        }
        // Tenants come from verified tokens; those nobody uses any more make room when there are many.
        if tenants.budgets.len() >= tenants.crowded {
            tenants.budgets.retain(|_, budget| Arc::strong_count(budget) > 1);
            tenants.crowded = (2 * tenants.budgets.len()).max(1_024);
        }
        let budget = Arc::new(Budget::new(self.tenant_limit));
        tenants.budgets.insert(tenant.into(), Arc::clone(&budget));
        budget
    }

    /// Calls `each` for every connection that lives, and for none or all of those that come and go meanwhile. The lock
    /// is let go every few hundred connections: reports are handed out under it.
    pub fn for_each(&self, mut each: impl FnMut(&Mailbox)) {
        for start in (0..).step_by(STRETCH) {
            let slots = lock(&self.slots);
            let Some(rest) = slots.slots.get(start..).filter(|rest| !rest.is_empty()) else { return };
            for occupant in rest.iter().take(STRETCH).filter_map(|slot| slot.occupant.as_ref()) {
                if !occupant.left {
                    each(&occupant.mailbox);
                }
            }
        }
    }

    /// Calls `each` for connections that live, from place `from` on, until `count` of them were what it wants, as it says,
    /// and gives the place behind the last; nothing where no more lie behind. One that comes meanwhile may lie before it.
    pub fn some(&self, from: usize, count: usize, mut each: impl FnMut(&Mailbox) -> bool) -> Option<usize> {
        let slots = lock(&self.slots);
        let mut left = count;
        for (place, slot) in slots.slots.iter().enumerate().skip(from) {
            let Some(occupant) = slot.occupant.as_ref().filter(|occupant| !occupant.left) else { continue };
            if left == 0 {
                return Some(place);
            }
            left -= usize::from(each(&occupant.mailbox));
        }
        None
    }

    /// Connections that live.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed).saturating_sub(self.clerks.load(Ordering::Relaxed)) as usize
    }

    /// What the whole node has taken and not stored.
    pub fn node_budget(&self) -> &Budget {
        &self.node
    }

    /// Records stored since the start.
    pub fn stored_total(&self) -> u64 {
        self.stored_total.load(Ordering::Relaxed)
    }

    /// Bytes received beyond the windows.
    pub fn parked(&self) -> usize {
        self.parked.load(Ordering::Relaxed)
    }

    /// Waits for reports and hands them out, once; to be called again and again by one task.
    pub fn poll_hand_out(&self, cx: &mut Context<'_>, batch: &mut Batch) -> Poll<()> {
        self.clerk.register(cx.waker());
        std::mem::swap(&mut *lock(&self.reports), &mut batch.0);
        if batch.0.is_empty() {
            return Poll::Pending;
        }
        self.hand_out(&batch.0, &mut batch.1);
        for mailbox in batch.1.drain(..) {
            mailbox.wake();
        }
        batch.0.clear();
        batch.0.shrink_to(KEPT_REPORTS);
        batch.1.shrink_to(KEPT_REPORTS);
        Poll::Ready(())
    }

    fn hand_out(&self, reports: &[Report], wake: &mut Vec<Arc<Mailbox>>) {
        let mut slots = lock(&self.slots);
        let (mut bytes, mut stored) = (0, 0);
        for report in reports {
            bytes += report.bytes as usize;
            stored += u64::from(!report.refused);
            let (slot, generation, index) = unpack(report.ticket);
            let Some(occupant) = slots.occupant(slot, generation) else { continue };
            occupant.tenant.release(report.bytes as usize);
            let last = occupant.mailbox.settle(index, report.refused);
            if !occupant.left {
                // Reports of one connection mostly follow one another: one entry will do.
                if !wake.last().is_some_and(|mailbox| Arc::ptr_eq(mailbox, &occupant.mailbox)) {
                    wake.push(Arc::clone(&occupant.mailbox));
                }
            } else if last {
                slots.vacate(slot);
            }
        }
        self.node.release(bytes);
        self.stored_total.fetch_add(stored, Ordering::Relaxed);
    }
}

/// What [`Receipts::poll_hand_out`] works with, kept from one time to the next.
#[derive(Debug, Default)]
pub struct Batch(Vec<Report>, Vec<Arc<Mailbox>>);

impl Deliveries for Receipts {
    fn settled(&self, ticket: Ticket, bytes: usize, outcome: Outcome) {
        let first = {
            let mut reports = lock(&self.reports);
            reports.push(Report { ticket, bytes: bytes as u32, refused: outcome == Outcome::Refused });
            reports.len() == 1
        };
        if first {
            self.clerk.wake();
        }
    }
}

impl Seat {
    /// Appends a record under this number where the budgets and the log have room for it. `false`: they have not, and nothing
    /// of it is outstanding.
    pub fn append(&self, index: u32, record: &Record<'_>, log: &dyn EventLog) -> bool {
        let Some(ticket) = self.ticket(index, record.value.len()) else { return false };
        let taken = log.append(record, ticket).is_ok();
        if !taken {
            self.give_back(record.value.len());
        }
        taken
    }

    /// Reserves `bytes` of the budgets for the record with number `index` and names it. `None`: a budget is used up.
    fn ticket(&self, index: u32, bytes: usize) -> Option<Ticket> {
        if !self.tenant.reserve(bytes) {
            return None;
        }
        if !self.receipts.node.reserve(bytes) {
            self.tenant.release(bytes);
            return None;
        }
        self.mailbox.appended();
        Some(Ticket(self.name.0 | (u64::from(index) % WINDOW as u64)))
    }

    /// Takes back a ticket the log did not want.
    fn give_back(&self, bytes: usize) {
        self.mailbox.not_appended();
        self.tenant.release(bytes);
        self.receipts.node.release(bytes);
    }

    /// Counts bytes received beyond the window. `false`: the node holds too many, and this connection is to be shed.
    pub fn park(&self, bytes: usize) -> bool {
        self.receipts.parked.fetch_add(bytes, Ordering::Relaxed) + bytes <= self.receipts.parked_limit
    }

    /// Takes back [`Seat::park`].
    pub fn unpark(&self, bytes: usize) {
        self.receipts.parked.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// The connection's mailbox.
    pub fn mailbox(&self) -> &Arc<Mailbox> {
        &self.mailbox
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.mailbox.close();
        self.receipts.connections.fetch_sub(1, Ordering::Relaxed);
        let (slot, generation, _) = unpack(self.name);
        let mut slots = lock(&self.receipts.slots);
        if let Some(occupant) = slots.occupant(slot, generation) {
            occupant.left = true;
            // Reports are handed out under the same lock, so none can slip between the question and the answer.
            if occupant.mailbox.outstanding() == 0 {
                slots.vacate(slot);
            }
        }
    }
}

fn pack(slot: u32, generation: u64, index: u32) -> Ticket {
    let index = u64::from(index) % WINDOW as u64;
    Ticket(generation << (SLOT_BITS + INDEX_BITS) | u64::from(slot) << INDEX_BITS | index)
}

fn unpack(ticket: Ticket) -> (u32, u64, u8) {
    let slot = (ticket.0 >> INDEX_BITS) & ((1 << SLOT_BITS) - 1);
    (slot as u32, ticket.0 >> (SLOT_BITS + INDEX_BITS), (ticket.0 % WINDOW as u64) as u8)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;
    use futures_util::task::noop_waker;

    fn drain(receipts: &Receipts) {
        let waker = noop_waker();
        let mut batch = Batch::default();
        while receipts.poll_hand_out(&mut Context::from_waker(&waker), &mut batch).is_ready() {}
    }

    #[test]
    fn a_report_reaches_the_mailbox_that_waits() {
        let receipts = Arc::new(Receipts::new(&Limits::default()));
        let (a, b) = (Arc::new(Mailbox::default()), Arc::new(Mailbox::default()));
        let (seat_a, seat_b) = (receipts.seat("t", Arc::clone(&a)), receipts.seat("t", Arc::clone(&b)));
        let _first = seat_a.ticket(0, 10).unwrap();
        let second = seat_b.ticket(65, 20).unwrap();
        receipts.settled(second, 20, Outcome::Stored);
        drain(&receipts);
        assert_eq!((a.take_settled().ended, b.take_settled().ended), (0, 1 << 1));
        assert_eq!(receipts.node_budget().used(), 10);
    }

    #[test]
    fn a_slot_is_not_used_again_while_its_records_are_outstanding() {
        let receipts = Arc::new(Receipts::new(&Limits::default()));
        let seat = receipts.seat("t", Arc::new(Mailbox::default()));
        let late = seat.ticket(3, 10).unwrap();
        drop(seat);
        let other = Arc::new(Mailbox::default());
        let seat = receipts.seat("t", Arc::clone(&other));
        receipts.settled(late, 10, Outcome::Stored);
        drain(&receipts);
        assert_eq!(other.take_settled().ended, 0, "a stranger's report");
        assert_eq!(receipts.node_budget().used(), 0);
        drop(seat);
        assert_eq!((receipts.connections(), lock(&receipts.slots).free.len()), (0, 2));
    }

    #[test]
    fn a_generation_tells_a_slots_occupants_apart() {
        let receipts = Arc::new(Receipts::new(&Limits::default()));
        let seat = receipts.seat("t", Arc::new(Mailbox::default()));
        let old = seat.ticket(0, 1).unwrap();
        receipts.settled(old, 1, Outcome::Stored);
        drain(&receipts);
        drop(seat);
        let mailbox = Arc::new(Mailbox::default());
        let seat = receipts.seat("t", Arc::clone(&mailbox));
        let new = seat.ticket(0, 1).unwrap();
        assert_ne!(old, new);
        assert_eq!(unpack(old).0, unpack(new).0);
    }

    #[test]
    fn everybody_is_reached_however_many_there_are() {
        let receipts = Arc::new(Receipts::new(&Limits::default()));
        let mut seats: Vec<_> =
            (0..2 * STRETCH + 3).map(|_| receipts.seat("t", Arc::new(Mailbox::default()))).collect();
        seats.remove(STRETCH);
        let mut reached = 0;
        receipts.for_each(|_| reached += 1);
        assert_eq!(reached, 2 * STRETCH + 2);
    }

    #[test]
    fn who_is_reached_a_few_at_a_time_is_reached_once() {
        let receipts = Arc::new(Receipts::new(&Limits::default()));
        let mut seats: Vec<_> = (0..10).map(|_| receipts.seat("t", Arc::new(Mailbox::default()))).collect();
        seats.remove(4);
        let (mut place, mut reached) = (Some(0), Vec::new());
        while let Some(from) = place {
            let mut some = 0;
            place = receipts.some(from, 4, |mailbox| {
                mailbox.signal(crate::mailbox::Signal::Leave);
                some += 1;
                true
            });
            reached.push(some);
        }
        assert_eq!(reached, [4, 4, 1]);
        assert!(seats.iter().all(|seat| seat.mailbox().take_signals().has(crate::mailbox::Signal::Leave)));
        assert_eq!(receipts.some(3, 0, |_| panic!("nobody was to be reached")), Some(3));
        // Those it does not want do not count.
        let (mut looked, mut wanted) = (0, 0);
        let place = receipts.some(0, 2, |_| {
            looked += 1;
            wanted += usize::from(looked % 2 == 0);
            looked % 2 == 0
        });
        assert_eq!((looked, wanted, place), (4, 2, Some(5)), "the fifth left");
    }

    #[test]
    fn tenants_that_nobody_uses_make_room() {
        let receipts = Arc::new(Receipts::new(&Limits::default()));
        let stays = receipts.seat("stays", Arc::new(Mailbox::default()));
        for number in 0..5_000 {
            drop(receipts.seat(&format!("t{number}"), Arc::new(Mailbox::default())));
        }
        assert!(lock(&receipts.tenants).budgets.len() <= 1_024);
        let other = receipts.seat("stays", Arc::new(Mailbox::default()));
        assert!(Arc::ptr_eq(&stays.tenant, &other.tenant), "a budget in use is the same for all");
    }

    #[test]
    fn what_a_connection_costs_here_is_small() {
        // A slot in the table, and what the connection holds of it.
        assert!(size_of::<Slot>() <= 32, "{}", size_of::<Slot>());
        assert!(size_of::<Seat>() <= 32, "{}", size_of::<Seat>());
    }

    #[test]
    fn a_full_budget_takes_nothing_and_counts_nothing() {
        let limits = Limits { node_budget_bytes: 100, tenant_budget_bytes: 60, ..Limits::default() };
        let receipts = Arc::new(Receipts::new(&limits));
        let a = receipts.seat("a", Arc::new(Mailbox::default()));
        let b = receipts.seat("b", Arc::new(Mailbox::default()));
        assert!(a.ticket(0, 50).is_some());
        assert!(a.ticket(1, 50).is_none(), "the tenant's budget");
        assert!(b.ticket(0, 50).is_some());
        assert!(b.ticket(1, 5).is_none(), "the node's budget");
        assert_eq!(receipts.node_budget().used(), 100);
        a.give_back(50);
        assert!(b.ticket(1, 5).is_some());
    }
}
