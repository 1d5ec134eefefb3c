//! The hard cases by their numbers, each by one body on both databases: the engine that ships and the SQL that ships,
//! over a scripted backend, in virtual time.
//!
//! What each of them says in detail is in the scenarios of core, for which nothing must wait; here is its heart, with all
//! parts together. H42 is about processes and is tested with the binary. [`cases`] lists all.

mod cases;
mod clocks;
mod course;
mod doubt;
mod people;
mod queue;
mod release;
mod service;
mod sweep;
mod tags;

macro_rules! suite {
    ($($room:ident::$name:ident)*) => {
        mod sqlite {
            $(#[tokio::test(start_paused = true)]
            async fn $name() {
                super::$room::$name(crate::ground::Ground::Sqlite).await;
            })*
        }
        mod postgres {
            $(#[tokio::test(start_paused = true)]
            async fn $name() {
                if crate::ground::Ground::Postgres.is_there() {
                    super::$room::$name(crate::ground::Ground::Postgres).await;
                }
            })*
        }
    };
}

suite! {
    tags::h01_a_tag_names_one_row_of_one_installation
    sweep::h02_an_orphan_goes_after_the_grace_and_two_sweeps
    sweep::h02_each_orphan_is_seen_twice
    sweep::h02_strangers_and_too_much_at_once_are_left_alone
    release::h03_a_stranger_in_our_place_is_left_alone
    release::h04_credentials_of_another_backend_are_refused_while_rows_are_open
    release::h04_what_another_backend_does_not_have_is_not_gone
    doubt::h05_a_lost_answer_is_adopted_and_not_made_twice
    doubt::h05_a_create_in_doubt_is_made_anew_only_when_it_cannot_come_any_more
    doubt::h05_a_create_that_cannot_be_sent_in_time_is_not_sent
    doubt::h05_a_create_under_way_at_a_lost_lease_is_adopted
    doubt::h05_a_lease_with_a_create_in_flight_is_not_handed_back
    doubt::h06_a_late_twin_is_released_and_the_row_closes_last
    doubt::h06_what_comes_under_a_closed_row_is_released_and_told
    course::h07_a_cancel_at_any_moment_leaves_nothing_or_a_service
    course::h07_a_cancel_waits_for_the_create_in_flight_and_takes_it_back
    course::h07_a_cancel_after_the_win_is_refused_and_names_deprovision
    release::h08_a_lost_attempt_s_debt_holds_its_cluster_s_capacity
    release::h08_a_write_off_frees_what_is_held_and_watches_on
    release::h08_what_is_owed_is_done_within_a_minute_of_the_end_of_an_outage
    release::h08_what_is_owed_is_done_within_a_minute_of_the_end_of_a_trouble_that_no_test_sees
    release::h08_what_waits_to_be_made_goes_on_within_a_minute_of_the_end_of_an_outage
    course::h09_attempts_share_no_name
    course::h09_the_next_namespace_begins_after_the_former_is_gone
    doubt::h10_what_must_be_made_anew_has_a_row_and_a_tag_of_its_own
    doubt::h10_what_is_spoiled_is_released_and_not_adopted
    doubt::h10_throttling_is_no_retry_and_ends
    course::h11_the_state_is_the_leader_s_and_goes_back_with_it
    course::h11_without_room_elsewhere_it_fails_with_the_attempt_s_own_error
    course::h12_what_is_stuck_ends_without_another_attempt
    course::h12_downtime_kills_nothing
    course::h12_downtime_kills_nothing_that_waits_for_a_release
    service::h13_suspend_reactivate_deprovision_in_a_hurry_while_calls_hang
    service::h13_what_is_wanted_last_is_reached
    service::h13_a_suspend_that_failed_half_way_is_undone
    service::h14_a_suspend_that_fails_is_told_and_tried_again
    service::h14_a_failed_reactivate_is_stopped_again
    sweep::h15_what_two_sweeps_in_a_row_miss_is_told_and_changes_nothing_else
    sweep::h15_one_sweep_that_sees_it_begins_the_count_anew_and_what_is_missing_can_be_released
    queue::h16_a_queue_time_out_fails_with_its_code
    queue::h16_what_can_never_fit_fails_an_hour_after_the_clusters_changed
    queue::h16_after_a_quarter_of_an_hour_younger_ones_take_no_room
    people::h17_a_failing_probe_asks_again_and_rolls_nothing_back
    people::h17_the_first_input_wins_and_actions_wait_for_a_confirmation
    clocks::h40_a_clock_that_goes_back_dates_nothing_before_its_cause
    clocks::h40_a_lease_runs_out_by_the_clock_of_the_store
    sweep::h41_an_own_tag_without_a_row_stops_all_releases
}
