//! The loop that drives a shard: the ring's events, pairs that run and end, and signals.

use std::rc::Rc;

use tracing::{info, warn};

use super::control::{Control, Envelope, Operator};
use super::mux::{TAG_CHANNEL, TAG_TUNNEL, run_muxes};
use super::status::{self, Legacies};
use super::streams::{TAG_QUIC, TAG_STREAM, run_streams};
use super::world::{Phase, Service, ShardSnapshot, TAG_DRAIN, TAG_PAIR, TAG_SIGNALS, World};
use crate::metrics::counters::Count;
use crate::metrics::latency::record;
use crate::relay::{Side, Usage};
use crate::runtime::Owner;
use crate::runtime::clock;
use crate::runtime::executor::run_woken_tasks;
use crate::runtime::inbox::Inbox;
use crate::runtime::reactor::Event;
use crate::runtime::ring::Sleep;
use crate::runtime::signal::Signal;
use crate::session::refused::Refused;

/// Runs a shard until it has ended, and returns what it counted, which `legacies` keep as
/// well. One shard hears the operator, and tells the others.
pub async fn drive<S: Service>(
    service: Rc<S>,
    inbox: Inbox<Envelope<S::Message>>,
    mut operator: Option<Operator>,
    legacies: &Legacies,
) -> ShardSnapshot {
    let world = Rc::clone(service.world());
    let reactor = &world.reactor;
    inbox.attach(reactor);
    if let Some(Operator { signals, .. }) = &operator {
        use std::os::fd::AsFd;
        reactor.watch_fd(
            signals.as_fd(),
            Owner {
                tag: TAG_SIGNALS,
                token: 0,
            },
        );
    }
    let mut runnable = run_woken_tasks().await;
    loop {
        world.streams.flush();
        let (mut sleep, planes_deadline) = {
            let planes = world.planes.borrow();
            (planes.sleep(), planes.next_deadline())
        };
        let wants_promptness =
            world.streams.wants_promptness() || world.muxes.wants_promptness(reactor.now());
        if sleep != Sleep::No && wants_promptness {
            sleep = Sleep::UntilOne;
        }
        if runnable
            || world.streams.has_work()
            || world.muxes.has_work()
            || (sleep != Sleep::No
                && !world.settings.spin.is_zero()
                && reactor.spin(world.settings.spin))
        {
            sleep = Sleep::No;
        }
        let deadlines = [
            planes_deadline,
            world.streams.next_deadline(),
            world.muxes.next_deadline(),
            service.next_deadline(),
        ];
        let deadline = deadlines.into_iter().flatten().min();
        reactor.turn(sleep, deadline);
        while let Some(event) = reactor.poll_event() {
            handle_event(&service, &world, &inbox, &mut operator, event);
        }
        run_pairs(&service, &world);
        run_streams(&service, &world);
        run_muxes(&service, &world);
        service.handle_turn(reactor.now());
        runnable = run_woken_tasks().await;
        let is_needed = operator.is_some() && world.has_others_to_stop();
        if world.is_draining() && !is_needed && is_over(&*service, &world) {
            break;
        }
    }
    world.streams.flush();
    // Bells that the last turn rang are still in the queue, and the ends of the last
    // pairs: one turn submits them, the next runs what comes of it.
    for _ in 0..2 {
        reactor.turn(Sleep::No, None);
    }
    for mailbox in &world.shards {
        // This ring submits no more; and one that has ended needs no telling.
        let _ = mailbox.send(Envelope::Control(Control::Ended));
    }
    legacies.take(&*service);
    world.snapshot()
}

fn handle_event<S: Service>(
    service: &Rc<S>,
    world: &Rc<World<S::Context, S::Message>>,
    inbox: &Inbox<Envelope<S::Message>>,
    operator: &mut Option<Operator>,
    event: Event,
) {
    let counts = &world.counters.counts;
    match event {
        Event::Ready {
            owner: Owner {
                tag: TAG_PAIR,
                token,
            },
            readiness,
        } => {
            let side = if token & 1 == 0 {
                Side::Left
            } else {
                Side::Right
            };
            let mut planes = world.planes.borrow_mut();
            planes.handle_readiness(token >> 1, side, readiness);
        }
        Event::Ready {
            owner: Owner {
                tag: TAG_SIGNALS, ..
            },
            ..
        } => {
            if let Some(operator) = operator {
                while let Some(signal) = operator.signals.poll() {
                    handle_signal(world, operator, signal);
                }
            }
        }
        Event::Ready {
            owner: Owner {
                tag: TAG_QUIC,
                token,
            },
            ..
        } => world.streams.handle_port(token),
        Event::Ready {
            owner: Owner {
                tag: TAG_STREAM,
                token,
            },
            readiness,
        } => world.streams.handle_socket(token, readiness),
        Event::Ready {
            owner: Owner {
                tag: TAG_TUNNEL,
                token,
            },
            readiness,
        } => world.muxes.handle_tunnel(token, readiness),
        Event::Ready {
            owner: Owner {
                tag: TAG_CHANNEL,
                token,
            },
            readiness,
        } => world.muxes.handle_channel(token, readiness),
        Event::Ready { owner, readiness } => service.handle_ready(owner, readiness),
        Event::Accepted { listener, socket } => {
            counts.increment(Count::Accepted);
            service.handle_accepted(listener, socket);
        }
        Event::Refused { count, .. } => {
            world.note_no_descriptor();
            counts.increment(Count::DescriptorsExhausted);
            world
                .counters
                .refused
                .add(Refused::NoDescriptor, u64::from(count));
        }
        Event::AcceptFailed { error, .. } => {
            counts.increment(Count::AcceptErrors);
            warn!(shard = world.shard.0, %error, "accept failed");
        }
        Event::Doorbell => {
            for envelope in inbox.drain() {
                match envelope {
                    Envelope::Service(message) => service.handle_message(message),
                    Envelope::Control(control) => handle_control(service, world, control),
                    Envelope::Pulse(asker) => world.beat(&asker),
                    Envelope::Status(question) => status::tell(&**service, &question),
                    Envelope::Strays { from, strays } => world.take_strays(from, strays),
                    Envelope::StraysTaken { by, count } => world.handle_strays_taken(by, count),
                    Envelope::Bridge(messages) => world.take_bridge_messages(messages),
                    Envelope::Resolved { question, answer } => {
                        world.questions.deliver(question, answer);
                    }
                }
            }
        }
        Event::Transfer { owner, progress } => {
            let mut planes = world.planes.borrow_mut();
            planes.handle_progress(owner.token, progress);
        }
        Event::Deadline { .. } => {
            if world.phase.get() == Phase::Draining {
                world.end();
            }
        }
    }
}

fn handle_signal<C: Copy, M: Send + 'static>(
    world: &World<C, M>,
    operator: &Operator,
    signal: Signal,
) {
    if let (Signal::Reload, Some(reload)) = (signal, &operator.reload) {
        // Nobody reads again when the process ends.
        let _ = reload.send(());
        return;
    }
    match signal {
        Signal::Report => world.broadcast(Control::Report),
        Signal::Terminate | Signal::Reload if world.told_to_stop.replace(true) => {
            world.broadcast(Control::End)
        }
        Signal::Terminate | Signal::Reload => {
            info!(
                drain_timeout_s = world.settings.drain_timeout.as_secs(),
                "stopping: no new sessions, those that run may finish; a second signal ends at once"
            );
            // There may be nobody whom it concerns.
            let _ = operator.stopping.send(());
            world.broadcast(Control::Drain);
        }
    }
}

fn handle_control<S: Service>(
    service: &Rc<S>,
    world: &Rc<World<S::Context, S::Message>>,
    control: Control,
) {
    match control {
        Control::Report => {
            let Usage {
                pairs,
                pipes_in_use,
                pipes_idle,
                spill_bytes,
                bulk_directions,
            } = world.planes.borrow().usage();
            info!(
                shard = world.shard.0,
                pairs,
                bulk_directions,
                pipes_in_use,
                pipes_idle,
                spill_bytes,
                counters = %world.snapshot(),
                "counters"
            );
        }
        Control::Drain if world.phase.get() == Phase::Running => {
            world.phase.set(Phase::Draining);
            let until = world.reactor.now() + world.settings.drain_timeout;
            world.reactor.set_deadline(
                until,
                Owner {
                    tag: TAG_DRAIN,
                    token: 0,
                },
            );
            world.reactor.stop_listening();
            service.handle_drain();
        }
        Control::Drain => {}
        Control::Ended => {
            let others = world.others_running.get().saturating_sub(1);
            world.others_running.set(others);
        }
        Control::End => {
            world.reactor.stop_listening();
            service.handle_drain();
            world.end();
        }
    }
}

/// Lets the planes work until the ring has something newer, then takes care of
/// the pairs that ended.
fn run_pairs<S: Service>(service: &Rc<S>, world: &Rc<World<S::Context, S::Message>>) {
    let now = world.reactor.now();
    let mut planes = world.planes.borrow_mut();
    planes.run(now);
    while let Some(key) = planes.poll_begun() {
        let sessions = world.sessions.borrow();
        if let Some(Some(session)) = sessions.get(key.index as usize) {
            let mut latencies = world.latencies.borrow_mut();
            let waited = clock::now().since(session.joined_at);
            record(&mut latencies.first_byte, waited);
        }
    }
    while let Some(ended) = planes.poll_ended() {
        let session = world.sessions.borrow_mut()[ended.pair.index as usize].take();
        let Some(session) = session else {
            unreachable!("every pair has its session");
        };
        if service.is_session(session.context, ended.reason, ended.bytes) {
            let errand = service.errand(session.context);
            session.log(&ended, now, errand.as_deref());
        }
        let lasted = clock::now().since(session.joined_at);
        record(&mut world.latencies.borrow_mut().session, lasted);
        world.counters.ended.increment(ended.reason);
        for ((party, socket), how) in session.parties.iter().zip(ended.sockets).zip(ended.how) {
            world.close_socket(party.poll, socket, how);
        }
        service.handle_session_ended(&session, ended.reason, ended.bytes);
    }
}

/// Whether a draining shard has nothing left to wait for.
fn is_over<S: Service>(service: &S, world: &World<S::Context, S::Message>) -> bool {
    let streams = &world.streams;
    let has_streams = streams.is_leaving() || streams.have_messages();
    let muxes = &world.muxes;
    // Channels may outlive their tunnels.
    let has_tunnels = muxes.tunnels() > 0 || muxes.channels() > 0 || muxes.has_work();
    if world.has_pairs() || has_streams || has_tunnels || world.breakable.count() > 0 {
        return false;
    }
    world.phase.get() == Phase::Ending || !service.is_busy() && !world.reactor.is_listening()
}
