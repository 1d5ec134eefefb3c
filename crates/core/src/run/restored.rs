//! After a restore (H41): what the store says is older than the world. Everything that may have been made since is
//! looked for by its tag before anything is made or believed gone.

use super::{Moment, OperationStatus, Run};

impl Run {
    /// Makes every open row that has no id yet look by its tag first, and every call begin anew. True when that changed
    /// something.
    pub fn after_restore(&mut self, m: &mut Moment<'_>) -> bool {
        let mut changed = false;
        for row in self.ledger.iter_mut().filter(|r| !r.is_closed()) {
            changed |= row.busy.take().is_some();
            if row.provider_id.is_none() {
                row.in_doubt = true;
                row.empty_looks = 0;
                row.next_at = Some(m.now);
                changed = true;
            }
        }
        let doubtful: Vec<_> = self.ledger.iter().filter(|r| r.in_doubt && !r.is_closed()).map(|r| r.id).collect();
        let operations = self.attempts.iter_mut().flat_map(|a| &mut a.operations);
        for operation in operations.chain(self.action.iter_mut().flat_map(|a| &mut a.operations)) {
            let open = matches!(operation.status, OperationStatus::Running | OperationStatus::Waiting | OperationStatus::Looking);
            if !open {
                continue;
            }
            let looks = operation.row.is_some_and(|r| doubtful.contains(&r));
            if looks || operation.status == OperationStatus::Running {
                operation.status = if looks { OperationStatus::Looking } else { OperationStatus::Waiting };
                operation.next_at = Some(m.now);
                changed = true;
            }
        }
        if changed {
            // H12: nothing counts as stuck because the store was asleep in a backup.
            self.touch(m);
        }
        changed
    }
}
