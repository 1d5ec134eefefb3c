//! Each operation through one conformance function, on every driver.

mod clusters;
mod ledger;
mod log;
mod requests;
mod small;
mod tenants;

use crate::build::World;

macro_rules! conformance {
    ($($name:ident: $function:path;)*) => {
        /// Every function against a store of a constructor.
        macro_rules! suite {
            ($driver:ident, $make:path) => {
                mod $driver {
                    use super::*;
                    $(#[tokio::test]
                    async fn $name() {
                        // On a machine without its database there is nothing to run it against.
                        if let Some(made) = Option::<World>::from($make()) {
                            $function(made).await;
                        }
                    })*
                }
            };
        }
    };
}

conformance! {
    meta: small::meta;
    installation_id: small::installation_id;
    readers: small::readers;
    tokens: small::tokens;
    stats: small::stats;
    roles: small::roles;
    epochs: small::h41_epochs;
    clusters_are_kept: clusters::are_kept;
    clusters_h4: clusters::h4_stay_the_same_backend;
    clusters_gates: clusters::h27_a_gate_is_shared;
    clusters_in_use: clusters::in_use_are_not_deleted;
    tenants_are_kept: tenants::are_kept;
    tenants_h26: tenants::h26_are_deleted_only_when_unused;
    quota: tenants::quota_is_proved;
    requests_one: requests::one_and_several;
    requests_list: requests::lists_are_paged_newest_first;
    requests_filters: requests::every_filter_holds;
    log_of_one: log::events_of_one_request;
    log_feed: log::the_feed_misses_nothing;
    log_rows: log::a_cursor_may_stand_anywhere_in_a_row;
    log_tenants: log::the_feed_of_a_tenant_is_its_own;
    ledger: ledger::rows_for_the_sweeper;
}

suite!(sqlite, World::sqlite);
suite!(inline, World::inline);
suite!(postgres, World::postgres);
