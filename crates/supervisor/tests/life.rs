//! The life of children, slots and reloads, one scenario a test: what happens, and what the machine does about it.
//!
//! Actions are compared as text (`render`), so that a scenario reads as a protocol. `tests/sim.rs` looks for what nobody
//! thought of; what it found is kept here.

use std::time::Duration;

use evenkeel_plan::SlotIdx;
use evenkeel_supervisor::life::{
    Action, Event, Outcome, Phase, Sample, Settings, State, Ticket, Who,
};

#[test]
fn the_daemon_is_ready_when_all_children_have_the_plan() {
    let mut life = Life::new();
    let begin = Event::Begin {
        open: 2,
        settings: settings(2),
    };
    life.expect(
        begin,
        "spawn monitor 1, spawn 0 1, spawn 1 1, prepare monitor 1, prepare 0 1, prepare 1 1, steer 0 1",
    );
    life.expect(prepared(MONITOR, 1, 1), "commit monitor 1");
    life.expect(applied(MONITOR, 1, 1), "");
    life.expect(prepared(w(0), 1, 1), "commit 0 1");
    life.expect(applied(w(0), 1, 1), "steer 0");
    life.expect(prepared(w(1), 1, 1), "commit 1 1");
    life.expect(applied(w(1), 1, 1), "steer 0 1, ready");
    assert_eq!(life.state.phase, Phase::Running);
}

#[test]
fn with_one_that_does_not_come_up_the_daemon_is_ready_after_a_while() {
    let mut life = Life::new();
    let settings = settings(2);
    life.step(Event::Begin { open: 2, settings });
    life.come_up(MONITOR, 1, 1);
    life.come_up(w(0), 1, 1);
    life.pass(150);
    life.expect(life.tick(), "adopt 1 by 0");
    life.ticks(4_800, "");
    life.pass(100);
    life.expect(life.tick(), "ready");
    life.ticks(4_900, "");
    life.pass(100);
    life.expect(life.tick(), "kill 1: it was not ready in time");
}

#[test]
fn the_first_crash_is_followed_at_once_and_quick_ones_ever_more_slowly() {
    let mut life = Life::running(2);
    life.pass(2_000);
    life.expect(
        exited(w(1), 1),
        "settle 1 crashed, spawn 1 2, prepare 1 1, steer 0",
    );
    // It dies again before it is ready: once more at once, since the first had a clean record; then with back-off.
    life.expect(exited(w(1), 2), "settle 1 crashed, spawn 1 3, prepare 1 1");
    life.expect(exited(w(1), 3), "settle 1 crashed");
    life.pass(100);
    life.expect(life.tick(), "spawn 1 4, prepare 1 1");
    life.expect(exited(w(1), 4), "settle 1 crashed");
    life.ticks(100, "");
    life.pass(100);
    life.expect(life.tick(), "spawn 1 5, prepare 1 1, adopt 1 by 0");
    life.expect(prepared(w(1), 5, 1), "commit 1 1");
    life.expect(applied(w(1), 5, 1), "steer 0 1, disown 1 by 0");
    // What an old process said is not taken for the new one's word.
    life.expect(exited(w(1), 4), "");
    life.expect(disowned(0, 1, 1), "");
}

#[test]
fn a_stopped_worker_is_bypassed_and_then_killed_and_a_starved_one_only_bypassed() {
    for (stopped, cpu_per_tick, kill) in [
        (
            true,
            0,
            "kill 1: its heartbeat stopped, and so is the process",
        ),
        (
            false,
            90,
            "kill 1: its heartbeat stopped while it burns CPU",
        ),
        (false, 0, ""),
        (false, 20, ""),
    ] {
        let mut life = Life::running(3);
        let late = |age, cpu| Sample {
            who: w(1),
            beat_age: ms(age),
            stopped,
            cpu: ms(cpu),
        };
        life.expect(life.tick_with(late(400, 0)), "");
        life.expect(life.tick_with(late(500, 5_000)), "steer 0 2, adopt 1 by 0");
        let mut killed = Vec::new();
        for n in 1..30 {
            life.pass(100);
            let sample = late(500 + n * 100, 5_000 + n * cpu_per_tick);
            let actions = life.step(life.tick_with(sample));
            if !actions.is_empty() {
                killed.push((500 + n * 100, actions));
            }
        }
        let expected: Vec<(u64, String)> = match kill {
            "" => Vec::new(),
            kill => vec![(2_000, kill.to_owned())],
        };
        assert_eq!(killed, expected, "stopped={stopped} cpu={cpu_per_tick}");
        if kill.is_empty() {
            life.expect(life.tick_with(late(0, 0)), "steer 0 1 2, disown 1 by 0");
        } else {
            life.expect(exited(w(1), 1), "settle 1 crashed, spawn 1 2, prepare 1 1");
        }
    }
}

#[test]
fn one_hung_child_is_killed_at_a_time_and_none_after_the_supervisor_itself_was_late() {
    let mut life = Life::running(3);
    let all_late = |on_time| Event::Tick {
        on_time,
        samples: [0, 1, 2]
            .map(|slot| Sample {
                who: w(slot),
                beat_age: ms(60_000),
                stopped: true,
                cpu: Duration::ZERO,
            })
            .to_vec(),
        queued: Vec::new(),
    };
    life.pass(60_000);
    life.expect(all_late(false), "");
    life.pass(900);
    life.expect(all_late(true), "");
    life.pass(100);
    // Nobody beats: clients are better off in the queues of those who were ready than nowhere.
    life.expect(all_late(true), "");
    life.pass(100);
    life.expect(
        all_late(true),
        "kill 0: its heartbeat stopped, and so is the process",
    );
    life.pass(100);
    life.expect(all_late(true), "");
    life.expect(
        exited(w(0), 1),
        "settle 0 crashed, spawn 0 2, prepare 0 1, steer 1 2",
    );
    life.pass(100);
    life.expect(
        all_late(true),
        "kill 1: its heartbeat stopped, and so is the process",
    );
}

#[test]
fn a_reload_prepares_the_monitor_first_and_switches_when_all_workers_have_prepared() {
    let mut life = Life::running(2);
    life.expect(reload(7), "compile 7");
    life.expect(compiled(2, settings(2)), "prepare monitor 2");
    life.expect(prepared(MONITOR, 1, 2), "prepare 0 2, prepare 1 2");
    life.expect(prepared(w(1), 1, 2), "");
    life.expect(
        prepared(w(0), 1, 2),
        "switch 2, commit monitor 2, commit 0 2, commit 1 2, answer 7 applied 2",
    );
    life.expect(applied(w(0), 1, 2), "");
    life.expect(applied(w(1), 1, 2), "");
    assert_eq!(life.state.current, 2);
}

#[test]
fn a_monitor_that_takes_long_is_waited_for_only_so_long_and_switches_later() {
    let mut life = Life::running(1);
    life.step(reload(1));
    life.expect(compiled(2, settings(1)), "prepare monitor 2");
    life.ticks(2_900, "");
    life.pass(100);
    life.expect(life.tick(), "prepare 0 2");
    life.expect(
        prepared(w(0), 1, 2),
        "switch 2, commit 0 2, answer 1 applied 2",
    );
    life.expect(prepared(MONITOR, 1, 2), "commit monitor 2");
}

#[test]
fn a_refusal_undoes_a_reload_everywhere() {
    let mut life = Life::running(2);
    life.step(reload(1));
    life.step(compiled(2, settings(5)));
    life.step(prepared(MONITOR, 1, 2));
    life.expect(prepared(w(0), 1, 2), "");
    life.expect(
        Event::Refused {
            who: w(1),
            incarnation: 1,
            generation: 2,
            reason: "no".to_owned(),
        },
        "abort monitor 2, abort 0 2, discard 2, answer 1 failed: worker 1 refused: no",
    );
    assert_eq!((life.state.current, life.state.settings), (1, settings(2)));
}

#[test]
fn a_worker_that_is_silent_about_a_new_plan_is_replaced() {
    let mut life = Life::running(2);
    life.step(reload(1));
    life.step(compiled(2, settings(2)));
    life.step(prepared(MONITOR, 1, 2));
    life.step(prepared(w(0), 1, 2));
    life.ticks(4_900, "");
    life.pass(100);
    life.expect(
        life.tick(),
        "kill 1: it did not answer to a new plan, abort monitor 2, abort 0 2, abort 1 2, discard 2, \
         answer 1 failed: worker 1 did not answer in time, steer 0",
    );
    life.expect(exited(w(1), 1), "settle 1 crashed, spawn 1 2, prepare 1 1");
}

#[test]
fn a_worker_that_becomes_ready_during_a_reload_has_as_long_for_its_answer_as_the_others() {
    let mut life = Life::running(2);
    life.step(exited(w(1), 1));
    life.step(reload(1));
    life.step(compiled(2, settings(2)));
    life.expect(prepared(MONITOR, 1, 2), "prepare 0 2");
    // It comes up shortly before the end of the time that worker 0 has.
    life.ticks(100, "");
    life.pass(100);
    life.expect(life.tick(), "adopt 1 by 0");
    life.ticks(4_700, "");
    life.expect(prepared(w(1), 2, 1), "commit 1 1");
    life.expect(applied(w(1), 2, 1), "prepare 1 2, steer 0 1, disown 1 by 0");
    life.pass(50);
    life.expect(prepared(w(0), 1, 2), "");
    life.ticks(1_000, "");
    life.expect(
        prepared(w(1), 2, 2),
        "switch 2, commit monitor 2, commit 0 2, commit 1 2, answer 1 applied 2",
    );
}

#[test]
fn a_reload_right_after_another_waits_for_those_still_on_their_way() {
    let mut life = Life::running(2);
    life.step(reload(1));
    life.step(compiled(2, settings(2)));
    life.step(prepared(MONITOR, 1, 2));
    life.step(prepared(w(0), 1, 2));
    life.step(prepared(w(1), 1, 2));
    // Worker 1 has not said yet that it is at 2 when 3 is compiled: 3 must not be switched to without it.
    life.step(applied(MONITOR, 1, 2));
    life.step(applied(w(0), 1, 2));
    life.step(reload(2));
    life.expect(compiled(3, settings(2)), "prepare monitor 3");
    life.expect(prepared(MONITOR, 1, 3), "prepare 0 3");
    life.expect(prepared(w(0), 1, 3), "");
    life.expect(applied(w(1), 1, 2), "prepare 1 3");
    life.expect(
        prepared(w(1), 1, 3),
        "switch 3, commit monitor 3, commit 0 3, commit 1 3, answer 2 applied 3",
    );
}

#[test]
fn a_pause_of_the_machine_is_nobody_s_silence() {
    let mut life = Life::running(2);
    life.step(reload(1));
    life.step(compiled(2, settings(2)));
    life.step(prepared(MONITOR, 1, 2));
    life.pass(60_000);
    // One answer comes before the tick that tells of the pause; nobody else is blamed at it.
    life.expect(prepared(w(0), 1, 2), "");
    life.expect(life.late_tick(), "");
    life.ticks(4_500, "");
    life.expect(
        prepared(w(1), 1, 2),
        "switch 2, commit monitor 2, commit 0 2, commit 1 2, answer 1 applied 2",
    );
}

#[test]
fn a_child_that_beats_and_does_not_follow_is_replaced() {
    let mut life = Life::running(1);
    life.step(reload(1));
    life.step(compiled(2, settings(1)));
    life.ticks(2_900, "");
    life.pass(100);
    life.expect(life.tick(), "prepare 0 2");
    life.step(prepared(w(0), 1, 2));
    life.step(applied(w(0), 1, 2));
    life.ticks(6_900, "");
    life.pass(100);
    life.expect(
        life.tick(),
        "kill monitor: it does not follow to the plan in force",
    );
}

#[test]
fn reloads_during_a_reload_share_the_next_one() {
    let mut life = Life::running(1);
    life.expect(reload(1), "compile 1");
    life.expect(reload(2), "");
    life.step(compiled(2, settings(1)));
    life.expect(reload(3), "");
    life.step(prepared(MONITOR, 1, 2));
    life.expect(
        prepared(w(0), 1, 2),
        "switch 2, commit monitor 2, commit 0 2, answer 1 applied 2",
    );
    life.expect(applied(w(0), 1, 2), "compile 2 3");
    life.expect(Event::NothingToDo, "");
    assert!(!life.state.is_reloading());
}

#[test]
fn changed_names_go_the_way_of_a_reload_and_nobody_is_answered() {
    let mut life = Life::running(1);
    life.expect(Event::NamesChanged, "compile ");
    // However many change meanwhile, they share the next.
    life.expect(Event::NamesChanged, "");
    life.expect(compiled(2, settings(1)), "prepare monitor 2");
    life.expect(Event::NamesChanged, "");
    life.step(prepared(MONITOR, 1, 2));
    life.expect(
        prepared(w(0), 1, 2),
        "switch 2, commit monitor 2, commit 0 2",
    );
    life.expect(applied(w(0), 1, 2), "compile ");
    life.expect(Event::NothingToDo, "");
    assert!(!life.state.is_reloading());
}

#[test]
fn changed_names_change_no_settings() {
    let mut life = Life::running(1);
    life.step(Event::NamesChanged);
    life.step(compiled(2, settings(3)));
    life.step(prepared(MONITOR, 1, 2));
    life.expect(
        prepared(w(0), 1, 2),
        "switch 2, commit monitor 2, commit 0 2",
    );
    assert_eq!(life.state.settings, settings(1));
}

#[test]
fn a_child_that_recovered_unseen_is_not_judged_by_what_it_burned_before() {
    let mut life = Life::running(2);
    let late = |on_time, age, cpu| Event::Tick {
        on_time,
        samples: vec![Sample {
            who: w(1),
            beat_age: ms(age),
            stopped: false,
            cpu: ms(cpu),
        }],
        queued: Vec::new(),
    };
    life.expect(late(true, 600, 1_000), "steer 0, adopt 1 by 0");
    // It burned, beat, and was starved: all while the supervisor did not run.
    life.pass(3_000);
    life.expect(late(false, 1_500, 3_000), "");
    life.pass(1_000);
    life.expect(late(true, 2_500, 3_000), "");
    life.pass(100);
    life.expect(late(true, 2_600, 3_010), "");
    // From here on it burns.
    life.pass(1_100);
    life.expect(
        late(true, 3_700, 4_110),
        "kill 1: its heartbeat stopped while it burns CPU",
    );
}

#[test]
fn a_reload_that_is_asked_for_goes_before_changed_names_and_does_not_swallow_them() {
    let mut life = Life::running(1);
    life.expect(reload(1), "compile 1");
    life.expect(Event::NamesChanged, "");
    life.expect(reload(2), "");
    life.expect(Event::NothingToDo, "compile 2");
    // The file has errors: the names are still to come.
    life.expect(Event::NothingToDo, "compile ");
    life.expect(Event::NothingToDo, "");
}

#[test]
fn names_that_are_refused_are_tried_again_at_most_once_a_second() {
    let mut life = Life::running(1);
    life.step(Event::NamesChanged);
    life.step(compiled(2, settings(1)));
    life.step(prepared(MONITOR, 1, 2));
    let refused = |generation| Event::Refused {
        who: w(0),
        incarnation: 1,
        generation,
        reason: "no".to_owned(),
    };
    life.expect(refused(2), "abort monitor 2, discard 2");
    life.expect(Event::NamesChanged, "");
    life.ticks(900, "");
    life.pass(100);
    life.expect(life.tick(), "compile ");
    life.step(compiled(3, settings(1)));
    life.expect(
        Event::Terminate,
        "stopping, not ready, abort monitor 3, discard 3",
    );
    life.expect(Event::NamesChanged, "");
}

#[test]
fn fewer_workers_are_steered_away_wait_are_let_go_and_closed_from_the_last_one_on() {
    let mut life = Life::running(4);
    life.reload_to(2, settings(1), "steer 0");
    life.ticks(900, "");
    life.pass(200);
    // Somebody waits in slot 3.
    life.expect(life.tick_queued(&[3]), "");
    life.pass(100);
    life.expect(life.tick(), "disown 3 by 3");
    life.expect(disowned(3, 1, 3), "close 3, drain 3");
    life.expect(exited(w(3), 1), "settle 3, disown 2 by 2");
    life.expect(disowned(2, 1, 2), "close 2, drain 2");
    life.expect(life.tick(), "disown 1 by 1");
    life.expect(exited(w(2), 1), "settle 2");
    life.expect(disowned(1, 1, 1), "close 1, drain 1");
    life.ticks(11_900, "");
    life.pass(100);
    life.expect(life.tick(), "kill 1: it did not end by its deadline");
    life.expect(exited(w(1), 1), "settle 1");
}

#[test]
fn more_workers_again_in_the_middle_of_scaling_down() {
    let mut life = Life::running(4);
    life.reload_to(2, settings(1), "steer 0");
    life.ticks(900, "");
    life.pass(100);
    life.expect(life.tick(), "disown 3 by 3");
    // Slots 1 and 2 serve on; slot 3 is closing, and is opened again after that.
    life.reload_to(3, settings(4), "steer 0 1 2");
    life.expect(disowned(3, 1, 3), "close 3, drain 3, open 3");
    // Its worker still finishes what runs; a neighbour accepts meanwhile.
    life.pass(200);
    life.expect(life.tick(), "adopt 3 by 0");
    life.expect(exited(w(3), 1), "settle 3, spawn 3 2, prepare 3 3");
    life.expect(prepared(w(3), 2, 3), "commit 3 3");
    life.expect(applied(w(3), 2, 3), "steer 0 1 2 3, disown 3 by 0");
}

#[test]
fn a_slot_is_not_let_go_before_its_queue_was_looked_into() {
    let mut life = Life::running(2);
    let no_grace = |workers| Settings {
        handshakes: Duration::ZERO,
        ..settings(workers)
    };
    // Steering comes first, and the last tick knew nothing of a queue in a slot that was not retiring.
    life.reload_to(2, no_grace(1), "steer 0");
    life.pass(100);
    life.expect(life.tick_queued(&[1]), "");
    life.pass(100);
    life.expect(life.tick(), "disown 1 by 1");
}

#[test]
fn handshakes_that_a_pause_caught_on_their_way_are_waited_for() {
    let mut life = Life::running(2);
    life.reload_to(2, settings(1), "steer 0");
    life.pass(60_000);
    life.expect(life.late_tick(), "");
    life.ticks(900, "");
    life.pass(200);
    life.expect(life.tick(), "disown 1 by 1");
}

#[test]
fn workers_that_are_not_wanted_serve_on_until_one_that_is_wanted_does() {
    let mut life = Life::running(2);
    life.step(exited(w(0), 1));
    life.step(reload(1));
    life.step(compiled(2, settings(1)));
    life.step(prepared(MONITOR, 1, 2));
    life.expect(
        prepared(w(1), 1, 2),
        "switch 2, commit monitor 2, commit 1 2, answer 1 applied 2, abort 0 1, prepare 0 2",
    );
    life.step(applied(w(1), 1, 2));
    life.pass(200);
    life.expect(life.tick(), "adopt 0 by 1");
    life.expect(prepared(w(0), 2, 2), "commit 0 2");
    life.expect(applied(w(0), 2, 2), "steer 0, disown 0 by 1");
}

#[test]
fn slots_that_cannot_be_opened_are_done_without() {
    let mut life = Life::running(1);
    life.reload_to(
        2,
        settings(4),
        "open 1, open 2, open 3, spawn 1 1, spawn 2 1, spawn 3 1, prepare 1 2, prepare 2 2, prepare 3 2",
    );
    let failed = |slot| Event::OpenFailed {
        slot: SlotIdx(slot),
    };
    life.expect(
        failed(2),
        "kill 2: it is not wanted any more, kill 3: it is not wanted any more",
    );
    // The one after it could not be opened either: that does not make more of them wanted.
    life.expect(failed(3), "");
    assert_eq!(life.state.settings.workers, 2);
    life.expect(exited(w(3), 1), "settle 3");
    life.expect(exited(w(2), 1), "settle 2");
}

#[test]
fn a_stop_waits_out_its_delay_then_drains_the_workers_and_the_monitor_last() {
    let mut life = Life::running(2);
    life.step(reload(1));
    life.step(reload(2));
    life.expect(
        Event::Terminate,
        "stopping, not ready, answer 2 denied: the daemon is stopping",
    );
    life.expect(reload(3), "answer 3 denied: the daemon is stopping");
    life.expect(
        compiled(2, settings(2)),
        "discard 2, answer 1 failed: the daemon is stopping",
    );
    life.ticks(400, "");
    // While it waits it serves, and replaces who dies.
    life.expect(
        exited(w(1), 1),
        "settle 1 crashed, spawn 1 2, prepare 1 1, steer 0",
    );
    life.pass(100);
    // Who waits in slot 1 is accepted by worker 0 before it stops.
    life.expect(
        life.tick(),
        "adopt 1 by 0, close all, drain 0, kill 1: it is not wanted any more",
    );
    life.expect(exited(w(1), 2), "settle 1");
    life.ticks(11_900, "");
    life.pass(100);
    life.expect(life.tick(), "kill 0: it did not end by its deadline");
    life.expect(exited(w(0), 1), "settle 0, drain monitor");
    life.expect(exited(MONITOR, 1), "exit");
    life.expect(life.tick(), "");
}

#[test]
fn the_second_stop_ends_at_once() {
    let mut life = Life::running(1);
    life.step(Event::Terminate);
    life.pass(500);
    life.expect(life.tick(), "close all, drain 0");
    // Even when something was due just then.
    life.pass(60_000);
    life.expect(
        Event::Terminate,
        "kill monitor: told to stop twice, kill 0: told to stop twice, exit",
    );
    life.expect(Event::Terminate, "");
}

const MONITOR: Who = Who::Monitor;

fn w(slot: u16) -> Who {
    Who::Worker(SlotIdx(slot))
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn settings(workers: u16) -> Settings {
    Settings {
        workers,
        steer_after: ms(500),
        kill_after: ms(2_000),
        drain_delay: ms(500),
        drain_deadline: ms(10_000),
        handshakes: ms(1_000),
    }
}

fn prepared(who: Who, incarnation: u64, generation: u64) -> Event {
    Event::Prepared {
        who,
        incarnation,
        generation,
    }
}

fn applied(who: Who, incarnation: u64, generation: u64) -> Event {
    Event::Applied {
        who,
        incarnation,
        generation,
    }
}

fn exited(who: Who, incarnation: u64) -> Event {
    Event::Exited { who, incarnation }
}

fn disowned(by: u16, incarnation: u64, slot: u16) -> Event {
    Event::Disowned {
        by: SlotIdx(by),
        incarnation,
        slot: SlotIdx(slot),
    }
}

fn reload(ticket: u64) -> Event {
    Event::ReloadRequested {
        ticket: Ticket(ticket),
    }
}

fn compiled(generation: u64, settings: Settings) -> Event {
    Event::Compiled {
        generation,
        settings,
    }
}

/// The machine and its clock.
struct Life {
    state: State,
    now: Duration,
}

impl Life {
    fn new() -> Self {
        Self {
            state: State::new(),
            now: Duration::ZERO,
        }
    }

    /// All children have the first plan.
    fn running(workers: u16) -> Self {
        let mut life = Self::new();
        life.step(Event::Begin {
            open: workers,
            settings: settings(workers),
        });
        life.come_up(MONITOR, 1, 1);
        for slot in 0..workers {
            life.come_up(w(slot), 1, 1);
        }
        assert_eq!(life.state.phase, Phase::Running);
        life
    }

    fn come_up(&mut self, who: Who, incarnation: u64, generation: u64) {
        self.step(prepared(who, incarnation, generation));
        self.step(applied(who, incarnation, generation));
    }

    /// A whole reload in which everybody answers; `then` is what follows the switch beside commits and answer.
    fn reload_to(&mut self, generation: u64, settings: Settings, then: &str) {
        self.step(reload(generation));
        self.step(compiled(generation, settings));
        let mut followed = self.step(prepared(MONITOR, 1, generation));
        let workers: Vec<Who> = self.state.children().map(|(who, _)| who).skip(1).collect();
        for &who in &workers {
            followed = self.step(prepared(who, 1, generation));
            if followed.contains("switch") {
                break;
            }
        }
        let answer = format!("answer {generation} applied {generation}");
        let (_, rest) = followed.split_once(&answer).expect("a switch");
        assert_eq!(rest.trim_start_matches(", "), then);
        for who in [MONITOR].into_iter().chain(workers) {
            self.step(applied(who, 1, generation));
        }
    }

    fn pass(&mut self, millis: u64) {
        self.now += ms(millis);
    }

    /// Ticks on time, one each 100 ms, for so long; each is followed by `then`.
    fn ticks(&mut self, millis: u64, then: &str) {
        for _ in 0..millis / 100 {
            self.pass(100);
            self.expect(self.tick(), then);
        }
    }

    fn tick(&self) -> Event {
        self.tick_queued(&[])
    }

    fn late_tick(&self) -> Event {
        Event::Tick {
            on_time: false,
            samples: Vec::new(),
            queued: Vec::new(),
        }
    }

    #[expect(
        clippy::unused_self,
        reason = "reads as `life.tick…` beside the others"
    )]
    fn tick_with(&self, sample: Sample) -> Event {
        Event::Tick {
            on_time: true,
            samples: vec![sample],
            queued: Vec::new(),
        }
    }

    /// Everybody beats.
    fn tick_queued(&self, queued: &[u16]) -> Event {
        let samples = self.state.children().map(|(who, _)| Sample {
            who,
            beat_age: Duration::ZERO,
            stopped: false,
            cpu: Duration::ZERO,
        });
        Event::Tick {
            on_time: true,
            samples: samples.collect(),
            queued: queued.iter().map(|&slot| SlotIdx(slot)).collect(),
        }
    }

    fn step(&mut self, event: Event) -> String {
        let actions = self.state.step(event, self.now);
        let texts: Vec<String> = actions.iter().map(render).collect();
        texts.join(", ")
    }

    #[track_caller]
    fn expect(&mut self, event: Event, actions: &str) {
        let text = format!("{event:?}");
        assert_eq!(self.step(event), actions, "after {text}");
    }
}

fn render(action: &Action) -> String {
    let name = |who: &Who| match who {
        Who::Monitor => "monitor".to_owned(),
        Who::Worker(slot) => slot.to_string(),
    };
    let numbers = |tickets: &[Ticket]| {
        let texts: Vec<String> = tickets.iter().map(|ticket| ticket.0.to_string()).collect();
        texts.join(" ")
    };
    match action {
        Action::Spawn { who, incarnation } => format!("spawn {} {incarnation}", name(who)),
        Action::Kill { who, reason } => format!("kill {}: {reason}", name(who)),
        Action::Settle { slot, crashed } => {
            format!("settle {slot}{}", if *crashed { " crashed" } else { "" })
        }
        Action::Prepare { who, generation } => format!("prepare {} {generation}", name(who)),
        Action::Commit { who, generation } => format!("commit {} {generation}", name(who)),
        Action::Abort { who, generation } => format!("abort {} {generation}", name(who)),
        Action::Switch { generation } => format!("switch {generation}"),
        Action::Discard { generation } => format!("discard {generation}"),
        Action::Compile { tickets } => format!("compile {}", numbers(tickets)),
        Action::Answer { tickets, outcome } => {
            let tickets = numbers(tickets);
            match outcome {
                Outcome::Applied { generation } => format!("answer {tickets} applied {generation}"),
                Outcome::Failed { reason } => format!("answer {tickets} failed: {reason}"),
                Outcome::Denied { reason } => format!("answer {tickets} denied: {reason}"),
            }
        }
        Action::Open { slot } => format!("open {slot}"),
        Action::Close { slot } => format!("close {slot}"),
        Action::Steer { live } => {
            let slots: Vec<String> = live.iter().map(SlotIdx::to_string).collect();
            format!("steer {}", slots.join(" "))
        }
        Action::Adopt { slot, by } => format!("adopt {slot} by {by}"),
        Action::Disown { slot, by } => format!("disown {slot} by {by}"),
        Action::Drain { who, .. } => format!("drain {}", name(who)),
        Action::CloseAll => "close all".to_owned(),
        Action::Ready { ready } => if *ready { "ready" } else { "not ready" }.to_owned(),
        Action::Stopping => "stopping".to_owned(),
        Action::Exit => "exit".to_owned(),
    }
}
