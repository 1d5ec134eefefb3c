//! The pipeline operations through one function each, on every driver.

mod claim;
mod depend;
pub mod scene;
pub mod tables;
mod truth;

use scene::Scene;

macro_rules! conformance {
    ($($name:ident: $function:path;)*) => {
        /// Every function against a scene of a constructor.
        macro_rules! suite {
            ($driver:ident, $make:path) => {
                mod $driver {
                    use super::*;
                    $(#[tokio::test]
                    async fn $name() {
                        // On a machine without its database there is nothing to run it against.
                        if let Some(made) = Option::<Scene>::from($make()) {
                            $function(made).await;
                        }
                    })*
                }
            };
        }
    };
}

conformance! {
    claim_lease: claim::takes_under_a_lease;
    claim_over: claim::a_lease_that_ran_out_is_taken_over;
    claim_limits: claim::limits_hold;
    claim_person: claim::what_waits_for_a_person_is_not_in_work;
    claim_turns: claim::tenants_take_turns;
    claim_delays_nobody: claim::a_queue_without_a_place_delays_nobody;
    claim_later: claim::who_has_no_room_is_due_again_later;
    claim_own_tenant: claim::who_has_no_place_does_not_block_its_tenant;
    claim_sick: claim::a_sick_cluster_is_waited_for_by_name;
    claim_never: claim::what_never_fits_any_more_fails_after_an_hour;
    claim_time_out: claim::a_queue_time_out_ends_the_wait;
    claim_no_slot: claim::a_queue_time_out_needs_no_slot;
    claim_image: claim::an_image_that_nobody_has_fails;
    claim_unreadable: claim::a_row_that_cannot_be_read_stops_nobody;
    claim_elsewhere: claim::a_failed_attempt_goes_on_elsewhere;
    claim_last: claim::without_room_elsewhere_a_failed_attempt_is_the_last;
    depend_wakes: depend::a_completion_wakes;
    depend_half: depend::a_half_completion_is_looked_at_and_put_away;
    depend_chain: depend::an_end_fails_the_whole_chain;
    depend_longest: depend::the_longest_chain_of_a_batch_fails_in_one_transaction;
    depend_worker: depend::a_failed_worker_run_fails_its_dependents;
}

suite!(sqlite, Scene::sqlite);
suite!(inline, Scene::inline);
suite!(postgres, Scene::postgres);
