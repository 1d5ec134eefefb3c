//! The pipeline operations through one function each, on every driver.

mod admit;
mod ask;
mod claim;
mod depend;
mod elder;
pub mod joined;
mod learn;
mod lease;
mod lost;
mod model;
mod race;
pub mod scene;
mod settle;
mod strategy;
pub mod tables;
mod truth;
mod wake;
mod walk;

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
    admit_stores_a_batch: admit::stores_a_batch;
    admit_refuses_all_or_nothing: admit::refuses_all_or_nothing;
    admit_another_tenants_request_is_no_prerequisite: admit::another_tenants_request_is_no_prerequisite;
    admit_h18_a_lowered_limit_takes_nothing_and_refuses_more: admit::h18_a_lowered_limit_takes_nothing_and_refuses_more;
    admit_h20_a_key_is_answered_the_same: admit::h20_a_key_is_answered_the_same;
    admit_h26_a_key_ends_with_its_tenant: admit::h26_a_key_ends_with_its_tenant;
    admit_a_dry_run_is_the_real_one_and_stores_nothing: admit::a_dry_run_is_the_real_one_and_stores_nothing;
    admit_a_retry_is_one_and_linked_both_ways: admit::a_retry_is_one_and_linked_both_ways;
    admit_h22_regions_are_fixed: admit::h22_regions_are_fixed;
    ask_cancels_what_is_queued_at_once: ask::cancels_what_is_queued_at_once;
    ask_is_refused_by_state: ask::is_refused_by_state;
    ask_of_others_is_not_found: ask::of_others_is_not_found;
    ask_the_newest_wish_wins: ask::the_newest_wish_wins;
    ask_what_others_wait_for_needs_force: ask::what_others_wait_for_needs_force;
    ask_the_first_input_wins: ask::the_first_input_wins;
    ask_a_write_off_ends_what_is_owed: ask::a_write_off_ends_what_is_owed;
    claim_takes_under_a_lease: claim::takes_under_a_lease;
    claim_a_lease_that_ran_out_is_taken_over: claim::a_lease_that_ran_out_is_taken_over;
    claim_limits_hold: claim::limits_hold;
    claim_what_waits_for_a_person_is_not_in_work: claim::what_waits_for_a_person_is_not_in_work;
    claim_tenants_take_turns: claim::tenants_take_turns;
    claim_a_queue_without_a_place_delays_nobody: claim::a_queue_without_a_place_delays_nobody;
    claim_who_has_no_room_is_due_again_later: claim::who_has_no_room_is_due_again_later;
    claim_who_has_no_place_does_not_block_its_tenant: claim::who_has_no_place_does_not_block_its_tenant;
    claim_a_sick_cluster_is_waited_for_by_name: claim::a_sick_cluster_is_waited_for_by_name;
    claim_h27_an_open_breaker_takes_nothing_new: claim::h27_an_open_breaker_takes_nothing_new;
    claim_what_never_fits_any_more_fails_after_an_hour: claim::what_never_fits_any_more_fails_after_an_hour;
    claim_a_queue_time_out_ends_the_wait: claim::a_queue_time_out_ends_the_wait;
    claim_a_queue_time_out_needs_no_slot: claim::a_queue_time_out_needs_no_slot;
    claim_an_image_that_nobody_has_fails: claim::an_image_that_nobody_has_fails;
    claim_a_row_that_cannot_be_read_stops_nobody: claim::a_row_that_cannot_be_read_stops_nobody;
    claim_a_failed_attempt_goes_on_elsewhere: claim::a_failed_attempt_goes_on_elsewhere;
    claim_without_room_elsewhere_a_failed_attempt_is_the_last: claim::without_room_elsewhere_a_failed_attempt_is_the_last;
    depend_a_completion_wakes: depend::a_completion_wakes;
    depend_a_half_completion_is_looked_at_and_put_away: depend::a_half_completion_is_looked_at_and_put_away;
    depend_an_end_fails_the_whole_chain: depend::an_end_fails_the_whole_chain;
    depend_the_longest_chain_of_a_batch_fails_in_one_transaction: depend::the_longest_chain_of_a_batch_fails_in_one_transaction;
    depend_a_failed_worker_run_fails_its_dependents: depend::a_failed_worker_run_fails_its_dependents;
    elder_room_is_kept_after_a_quarter_of_an_hour: elder::room_is_kept_after_a_quarter_of_an_hour;
    elder_older_ones_and_other_clusters_are_free: elder::older_ones_and_other_clusters_are_free;
    elder_nothing_is_kept_for_who_could_not_use_it: elder::nothing_is_kept_for_who_could_not_use_it;
    elder_a_dry_run_and_a_further_attempt_know_of_it: elder::a_dry_run_and_a_further_attempt_know_of_it;
    joined_is_as_one_by_one: joined::is_as_one_by_one;
    joined_the_first_of_a_group_wins: joined::the_first_of_a_group_wins;
    joined_a_lost_lease_is_fenced_alone: joined::a_lost_lease_is_fenced_alone;
    joined_ends_are_told_after_a_group: joined::ends_are_told_after_a_group;
    joined_a_large_claim_is_as_many_small_ones: joined::a_large_claim_is_as_many_small_ones;
    joined_a_claim_tells_who_waits: joined::a_claim_tells_who_waits;
    lease_a_heartbeat_extends_its_own: lease::a_heartbeat_extends_its_own;
    lease_a_lease_that_its_holder_does_not_know_runs_out: lease::a_lease_that_its_holder_does_not_know_runs_out;
    lease_h12_time_without_any_worker_is_counted: lease::h12_time_without_any_worker_is_counted;
    lease_h28_workers_have_their_places: lease::h28_workers_have_their_places;
    lease_a_lease_is_given_back_by_its_holder_alone: lease::a_lease_is_given_back_by_its_holder_alone;
    lease_a_lease_taken_over_is_not_given_back_by_the_former_holder: lease::a_lease_taken_over_is_not_given_back_by_the_former_holder;
    lease_the_only_process_frees_all_leases: lease::the_only_process_frees_all_leases;
    lease_a_command_leaves_a_note_for_the_holder: lease::a_command_leaves_a_note_for_the_holder;
    lease_a_command_makes_due_what_nobody_holds: lease::a_command_makes_due_what_nobody_holds;
    lease_what_comes_back_is_logged: lease::what_comes_back_is_logged;
    learn_each_operation_counts_once: learn::each_operation_counts_once;
    learn_h30_many_hits_are_told: learn::h30_many_hits_are_told;
    lost_an_admission: lost::an_admission;
    lost_a_claim: lost::a_claim;
    lost_every_settlement: lost::every_settlement;
    lost_a_command: lost::a_command;
    strategy_a_race_starts_on_two_clusters_and_counts_once: strategy::a_race_starts_on_two_clusters_and_counts_once;
    strategy_a_race_without_room_becomes_a_failover: strategy::a_race_without_room_becomes_a_failover;
    strategy_a_race_may_share_a_cluster: strategy::a_race_may_share_a_cluster;
    strategy_h31_a_policy_of_races_draws_on_the_budget: strategy::h31_a_policy_of_races_draws_on_the_budget;
    strategy_h31_hedges_end_with_the_budget: strategy::h31_hedges_end_with_the_budget;
    strategy_a_policy_is_fixed_at_admission: strategy::a_policy_is_fixed_at_admission;
    model_keeps_what_the_store_keeps: model::keeps_what_the_store_keeps;
    settle_leads_to_a_service: settle::leads_to_a_service;
    settle_is_fenced: settle::is_fenced;
    settle_the_same_answer_twice_counts_once: settle::the_same_answer_twice_counts_once;
    settle_other_calls_keep_the_lease: settle::other_calls_keep_the_lease;
    settle_at_closing_nothing_begins: settle::at_closing_nothing_begins;
    settle_a_lost_create_is_adopted: settle::a_lost_create_is_adopted;
    settle_clean_up_owed_keeps_everything_until_it_is_gone: settle::clean_up_owed_keeps_everything_until_it_is_gone;
    wake_brings_forward_what_a_failure_made_wait: wake::brings_forward_what_a_failure_made_wait;
    wake_leaves_a_holder_s_lease_and_tells_it: wake::leaves_a_holder_s_lease_and_tells_it;
    wake_names_those_to_whom_something_is_owed: wake::names_those_to_whom_something_is_owed;
    settle_a_backend_becomes_known: settle::a_backend_becomes_known;
}

suite!(sqlite, Scene::sqlite);
suite!(inline, Scene::inline);
suite!(postgres, Scene::postgres);
