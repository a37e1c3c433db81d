//! Each cheat by name: who does it is slashed in time, nobody else is, and developers pay what was right.

use stoa_sim::{Cheat, run_audits};

const SEEDS: u64 = 3;

fn holds(cheat: Cheat) {
    for seed in 0..SEEDS {
        if let Err(what) = run_audits(seed, cheat) {
            panic!("seed {seed}: {what}");
        }
    }
}

macro_rules! each {
    ($($name:ident: $cheat:ident),* $(,)?) => {
        $(#[test] fn $name() { holds(Cheat::$cheat) })*
    };
}

each! {
    network_without_a_cheat_slashes_nobody: Nobody,
    swapped_model_is_convicted_and_the_developer_refunded: SwapModel,
    now_and_then_altered_output_is_convicted_at_the_first_time: AlterOutput,
    overcounted_prompt_is_convicted: Overcount,
    charge_above_the_counts_takes_the_router_s_stake: Overcharge,
    job_posted_twice_takes_the_router_s_stake: DoublePost,
    withheld_leaf_file_is_the_router_s_fault_and_no_validator_s: WithholdLeaves,
    withheld_work_is_the_router_s_fault_and_no_provider_s: WithholdWork,
    copied_verdict_earns_nothing: Copy,
    sleeping_validator_pays_and_holds_up_nobody: Sleep,
    validator_that_always_accuses_pays_and_no_provider_does: Accuse,
    validator_that_calls_all_good_pays_at_the_first_wrong_answer: Lazy,
}
