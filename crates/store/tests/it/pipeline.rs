//! The pipeline operations through one function each, on every driver.

mod depend;
mod scene;
mod tables;
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
                        $function($make()).await;
                    })*
                }
            };
        }
    };
}

conformance! {
    depend_wakes: depend::a_completion_wakes;
    depend_half: depend::a_half_completion_is_looked_at_and_put_away;
    depend_chain: depend::an_end_fails_the_whole_chain;
    depend_longest: depend::the_longest_chain_of_a_batch_fails_in_one_transaction;
    depend_worker: depend::a_failed_worker_run_fails_its_dependents;
}

suite!(sqlite, Scene::sqlite);
suite!(inline, Scene::inline);
