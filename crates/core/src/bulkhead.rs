//! The bulkhead of a cluster (H28): so many calls in flight at most, a part of them for undo and suspend alone, and
//! whoever waits is let in by tenants in turn.
//!
//! Pure: it says who goes and who waits; the shell wakes them. What takes something back may use every slot, what makes
//! more only its own part: deletes that would free a full cluster never wait for its creates.

use std::collections::{BTreeMap, VecDeque};

use crate::id::TenantId;

/// How many calls may be in flight in this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Of those that make more.
    pub ordinary: u32,
    /// Besides, of those that take something back.
    pub urgent: u32,
}

impl Limits {
    /// The part of the process number `rank` (from 0) of `count`. The parts of all are never more than the whole.
    pub fn share(max_in_flight: u32, rank: u32, count: u32) -> Self {
        let kept = (max_in_flight / 4).max(1).min(max_in_flight);
        let count = count.max(1);
        let part = |of: u32, rank: u32| of / count + u32::from(rank < of % count);
        // From the other end, so that no process has nothing as long as there is enough for all.
        Self { ordinary: part(max_in_flight - kept, rank), urgent: part(kept, count.saturating_sub(rank + 1)) }
    }

    fn all(self) -> u32 {
        self.ordinary.saturating_add(self.urgent)
    }
}

/// Who waits, or has been let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(u64);

/// What becomes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// It may be made.
    In,
    /// It waits under this ticket.
    Waits(Ticket),
    /// The line is as long as it may be: whoever would only stand in it waits elsewhere, which costs less.
    Full,
}

/// The line is at most so many times as long as there are slots.
const LINE: u32 = 4;

/// Tenants' lines, and whose turn was last.
#[derive(Debug, Default)]
struct Line {
    by_tenant: BTreeMap<TenantId, VecDeque<Ticket>>,
    last: Option<TenantId>,
    count: u32,
}

impl Line {
    fn push(&mut self, tenant: TenantId, ticket: Ticket) {
        self.by_tenant.entry(tenant).or_default().push_back(ticket);
        self.count += 1;
    }

    /// Each tenant may stand in line for its share of the slots, one at least.
    fn is_long(&self, limits: Limits, tenant: TenantId) -> bool {
        let slots = limits.all().max(1);
        let own = self.by_tenant.get(&tenant).map_or(0, VecDeque::len);
        let share = usize::try_from(slots).unwrap_or(usize::MAX) / self.by_tenant.len().max(1);
        self.count >= slots.saturating_mul(LINE) || own >= share.max(1)
    }

    /// The next tenant's first.
    fn pop(&mut self) -> Option<Ticket> {
        use std::ops::Bound::{Excluded, Unbounded};
        let after = self.last.and_then(|last| self.by_tenant.range((Excluded(last), Unbounded)).next());
        let tenant = *after.or_else(|| self.by_tenant.iter().next())?.0;
        let line = self.by_tenant.get_mut(&tenant)?;
        let ticket = line.pop_front();
        if line.is_empty() {
            self.by_tenant.remove(&tenant);
        }
        self.last = Some(tenant);
        self.count = self.count.saturating_sub(1);
        ticket
    }

    fn remove(&mut self, ticket: Ticket) -> bool {
        let found = self.by_tenant.iter_mut().find_map(|(tenant, line)| {
            let at = line.iter().position(|t| *t == ticket)?;
            line.remove(at);
            Some((*tenant, line.is_empty()))
        });
        if let Some((tenant, true)) = found {
            self.by_tenant.remove(&tenant);
        }
        self.count = self.count.saturating_sub(u32::from(found.is_some()));
        found.is_some()
    }
}

/// The slots of one cluster in this process.
#[derive(Debug, Default)]
pub struct Slots {
    ordinary: u32,
    urgent: u32,
    waiting: Line,
    waiting_urgent: Line,
    tickets: u64,
}

impl Slots {
    fn has_room(&self, limits: Limits, urgent: bool) -> bool {
        let free = self.ordinary.saturating_add(self.urgent) < limits.all();
        free && (urgent || self.ordinary < limits.ordinary)
    }

    fn take(&mut self, urgent: bool) {
        let count = if urgent { &mut self.urgent } else { &mut self.ordinary };
        *count = count.saturating_add(1);
    }

    /// A call wants to be made. `sent`: it is about what has long begun, and is never sent away.
    pub fn enter(&mut self, limits: Limits, tenant: TenantId, urgent: bool, sent: bool) -> Entry {
        let line = if urgent { &self.waiting_urgent } else { &self.waiting };
        let long = line.is_long(limits, tenant);
        if line.count == 0 && self.has_room(limits, urgent) {
            self.take(urgent);
            return Entry::In;
        }
        if long && !sent {
            return Entry::Full;
        }
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        let line = if urgent { &mut self.waiting_urgent } else { &mut self.waiting };
        line.push(tenant, ticket);
        Entry::Waits(ticket)
    }

    /// A call has ended. Answers who is let in by that.
    pub fn leave(&mut self, limits: Limits, urgent: bool) -> Vec<Ticket> {
        let count = if urgent { &mut self.urgent } else { &mut self.ordinary };
        *count = count.saturating_sub(1);
        self.let_in(limits)
    }

    /// Who can be let in, what takes something back first.
    pub fn let_in(&mut self, limits: Limits) -> Vec<Ticket> {
        let mut admitted = Vec::new();
        for urgent in [true, false] {
            while self.has_room(limits, urgent) {
                let line = if urgent { &mut self.waiting_urgent } else { &mut self.waiting };
                let Some(ticket) = line.pop() else { break };
                self.take(urgent);
                admitted.push(ticket);
            }
        }
        admitted
    }

    /// Somebody waits no more. False: it has been let in meanwhile.
    pub fn give_up(&mut self, ticket: Ticket) -> bool {
        self.waiting.remove(ticket) || self.waiting_urgent.remove(ticket)
    }

    /// How many calls are in flight.
    pub fn busy(&self) -> u32 {
        self.ordinary.saturating_add(self.urgent)
    }

    /// How many wait that make more.
    pub fn waiting(&self) -> u32 {
        self.waiting.count
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chance::SplitMix;
    use crate::time::Timestamp;

    fn tenants() -> [TenantId; 3] {
        [1, 2, 3].map(|n| TenantId::new(Timestamp(n * 1_000_000), &mut SplitMix::new(1)))
    }

    const EIGHT: Limits = Limits { ordinary: 6, urgent: 2 };

    #[test]
    fn h28_a_quarter_is_for_undo_alone() {
        assert_eq!(Limits::share(8, 0, 1), EIGHT);
        assert_eq!(Limits::share(2, 0, 1), Limits { ordinary: 1, urgent: 1 });
        let (mut slots, [a, ..]) = (Slots::default(), tenants());
        let entered: Vec<bool> = (0..8).map(|_| slots.enter(EIGHT, a, false, true) == Entry::In).collect();
        assert_eq!(entered, [true, true, true, true, true, true, false, false]);
        assert_eq!([slots.enter(EIGHT, a, true, true), slots.enter(EIGHT, a, true, true)], [Entry::In, Entry::In]);
        assert!(matches!(slots.enter(EIGHT, a, true, true), Entry::Waits(_)));
        assert_eq!(slots.busy(), 8);
        // Undo uses what is free of the others, too, and goes first.
        assert_eq!(slots.leave(EIGHT, false).len(), 1);
        assert_eq!(slots.waiting(), 2);
    }

    #[test]
    fn h28_tenants_wait_in_turn() {
        let one = Limits { ordinary: 1, urgent: 1 };
        let (mut slots, [a, b, c]) = (Slots::default(), tenants());
        assert_eq!(slots.enter(one, a, false, true), Entry::In);
        let order = [a, a, a, b, b, c];
        let tickets = order.map(|tenant| match slots.enter(one, tenant, false, true) {
            Entry::Waits(ticket) => ticket,
            _ => panic!("it is full"),
        });
        let mut served = Vec::new();
        for _ in 0..6 {
            served.extend(slots.leave(one, false));
        }
        let turn = |i: usize| tickets[i];
        assert_eq!(served, [turn(0), turn(3), turn(5), turn(1), turn(4), turn(2)]);
    }

    #[test]
    fn whoever_gives_up_is_passed_by() {
        let one = Limits { ordinary: 1, urgent: 1 };
        let (mut slots, [a, b, _]) = (Slots::default(), tenants());
        slots.enter(one, a, false, true);
        let Entry::Waits(first) = slots.enter(one, a, false, true) else { panic!() };
        let Entry::Waits(second) = slots.enter(one, b, false, true) else { panic!() };
        assert!(slots.give_up(first) && !slots.give_up(first));
        assert_eq!(slots.leave(one, false), [second]);
        assert!(!slots.give_up(second), "it was let in");
        assert_eq!((slots.busy(), slots.waiting()), (1, 0));
    }

    #[test]
    fn h28_the_parts_of_all_workers_are_never_more_than_the_whole() {
        for max in 2..40 {
            for count in 1..12 {
                let parts: Vec<Limits> = (0..count).map(|rank| Limits::share(max, rank, count)).collect();
                let sum: u32 = parts.iter().map(|p| p.all()).sum();
                assert_eq!(sum, max);
                assert_eq!(parts.iter().map(|p| p.urgent).sum::<u32>(), (max / 4).max(1));
            }
        }
    }

    #[test]
    fn h28_a_crowd_of_one_tenant_is_sent_away_and_leaves_room_in_line_for_others() {
        let (mut slots, [a, b, c]) = (Slots::default(), tenants());
        let entered: Vec<Entry> = (0..30).map(|_| slots.enter(EIGHT, a, false, false)).collect();
        assert_eq!(entered.iter().filter(|e| **e == Entry::In).count(), 6);
        assert_eq!(entered.iter().filter(|e| matches!(e, Entry::Waits(_))).count(), 8);
        assert!(matches!(slots.enter(EIGHT, b, false, false), Entry::Waits(_)));
        assert!(matches!(slots.enter(EIGHT, c, false, false), Entry::Waits(_)));
        assert_eq!(slots.enter(EIGHT, a, false, false), Entry::Full);
        assert!(matches!(slots.enter(EIGHT, a, false, true), Entry::Waits(_)), "what has begun is never sent away");
    }
}
