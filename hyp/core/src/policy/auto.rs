//! One decision of the automatic policy.

use super::funding::{Claim, MAX_PAGES, Tax, share_out};
use super::{BLOCK, Latitude, Level, Mode, Observed, Policy, Sent, Want, sooner};

/// Taking goes on until every guest is within a block of its fixed point, or within one page for so many.
const NEAR_PART: u64 = 400;

/// What a decision came to, beside the changes.
pub(super) struct Auto {
    /// When to look again although nothing is heard.
    pub(super) next_us: Option<u64>,
    /// Somebody wants memory and there is not enough for everybody.
    pub(super) competing: bool,
}

/// Pages that nobody holds.
#[derive(Clone, Copy)]
pub(super) struct Supply {
    /// Free, or being given, and promised to nobody.
    pub(super) spare: u64,
    /// What is promised although it is not there: the operator, or a guest that gave less than it should.
    pub(super) debt: u64,
    /// What of it is kept for guests in trouble.
    pub(super) reserve: u64,
    /// How much of that is there.
    pub(super) level: Level,
}

/// For whom a step decides.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reach {
    /// Somebody else does.
    Nobody,
    /// For guests in trouble, of what is free.
    Free,
    /// For guests in trouble, whoever has it.
    Trouble,
    Everybody,
}

impl Supply {
    /// What can be given away.
    fn usable(self) -> u64 {
        self.spare.saturating_sub(self.reserve)
    }
}

impl Policy {
    /// Decides and writes the members' changes.
    pub(super) fn decide(
        &mut self,
        now_us: u64,
        observed: &[Observed],
        mut supply: Supply,
    ) -> Auto {
        let mut auto = Auto {
            next_us: None,
            competing: false,
        };
        let wanting = self.claim(now_us, observed, &mut auto);
        let in_trouble = |claim: &Claim| claim.cap > claim.held;
        let mut members = self.members.iter().zip(&self.claims);
        let is_urgent =
            members.any(|(member, claim)| member.is_urgent(now_us) && in_trouble(claim));
        if is_urgent {
            // This is what the reserve is for.
            supply.reserve = 0;
            supply.level = Level::Low;
        }
        let reach = self.reach(now_us, is_urgent, wanting, &mut auto);
        if reach == Reach::Nobody {
            return auto;
        }
        self.narrow(reach, now_us);
        self.refilling = match supply.level {
            Level::High => false,
            Level::Soft => self.refilling,
            Level::Hard | Level::Low => !is_urgent,
        };
        if wanting {
            if self.refilling {
                // Where memory is taken anyway, the reserve has its part.
                supply.debt += supply.reserve.saturating_sub(supply.spare);
            }
            auto.competing = self.serve(supply, is_urgent) && reach != Reach::Free;
        } else {
            self.revoking = false;
            if !self.refill(supply) {
                return auto;
            }
        }
        let changed = self.apply(now_us, observed, supply);
        if changed || !self.is_settled(now_us) {
            let look = now_us.saturating_add(supply.level.interval_us());
            auto.next_us = sooner(auto.next_us, look);
        } else if let Some(end) = self.next_reversal(now_us) {
            auto.next_us = sooner(auto.next_us, end);
        }
        auto
    }

    /// For whom something is to be decided now. In [`Mode::External`] that is up to the control guest, for its time;
    /// but a guest in trouble does not have that time.
    fn reach(&self, now_us: u64, is_urgent: bool, wanting: bool, auto: &mut Auto) -> Reach {
        let timeout = self.external_until_us();
        if self.mode != Mode::External || now_us >= timeout {
            return Reach::Everybody;
        }
        if wanting {
            auto.next_us = Some(timeout);
        }
        if !is_urgent {
            return Reach::Nobody;
        }
        let members = self.members.iter().filter_map(|m| m.activity.as_ref());
        let since = members.filter_map(|activity| activity.urgent_since(now_us));
        let since = since.min().unwrap_or(now_us).max(self.heard_us);
        let timeout = since.saturating_add(self.settings.trouble_timeout_us);
        if now_us >= timeout {
            return Reach::Trouble;
        }
        auto.next_us = sooner(auto.next_us, timeout);
        Reach::Free
    }

    /// Nobody but those in `reach` is given anything.
    fn narrow(&mut self, reach: Reach, now_us: u64) {
        if reach == Reach::Everybody {
            return;
        }
        for (member, claim) in self.members.iter().zip(&mut self.claims) {
            if !member.is_urgent(now_us) {
                claim.cap = claim.held;
            }
            if reach == Reach::Free {
                claim.floor = claim.held;
            }
        }
    }

    /// Makes every guest's claim: the floor is what it can be brought down to, the cap is above what it holds
    /// if it wants more. True if anybody does; if only a kept direction is in the way, says when it ends.
    fn claim(&mut self, now_us: u64, observed: &[Observed], auto: &mut Auto) -> bool {
        let settings = self.settings;
        let mut wanting = false;
        let members = self.members.iter_mut().zip(observed);
        for ((member, seen), claim) in members.zip(&mut self.claims) {
            let entitlement = &member.entitlement;
            let memory = seen.memory_pages.min(MAX_PAGES);
            let can_be_asked = member.can_be_asked(seen) && member.change.is_none();
            let held = if can_be_asked {
                seen.target_pages.min(MAX_PAGES)
            } else {
                memory
            };
            let want = match &member.activity {
                Some(activity) if can_be_asked => activity.want(
                    memory,
                    entitlement.max_pages,
                    seen.touched,
                    now_us,
                    settings.half_lives,
                ),
                // Nothing is known: it uses what it has.
                _ => Want {
                    now: held,
                    active: held,
                    lasting: held,
                    soon: held,
                },
            };
            let wants_more = can_be_asked && want.now >= held + BLOCK;
            let down_until = member.kept_until(false, settings.reversal_us);
            let may_grow = member.is_urgent(now_us) || down_until <= now_us;
            if wants_more && !may_grow {
                auto.next_us = sooner(auto.next_us, down_until);
            }
            wanting |= wants_more;
            member.latitude = Latitude {
                may_grow,
                may_shrink: member.kept_until(true, settings.reversal_us) <= now_us,
                was_in_trouble: member.sent.is_some_and(|sent| sent.in_trouble),
                lasting: want.lasting,
                soon: want.soon,
            };
            *claim = Claim {
                shares: entitlement.shares.into(),
                held,
                active: want.active,
                floor: if can_be_asked {
                    entitlement.min_pages.min(held)
                } else {
                    held
                },
                cap: if wants_more { want.now } else { held },
            };
        }
        wanting
    }

    /// Goals when somebody wants more: what is free first, then what others pay least for. True if there is
    /// not enough for everybody.
    ///
    /// The goals are the fixed point of revocation for what the guests use *now*, but no guest is asked to give
    /// what it used a moment ago, or was given a moment ago: it gives that later, and nobody else in its stead.
    /// So nobody ever has to be given back what was taken too much, and the order in which guests become idle
    /// makes no difference to where it ends.
    fn serve(&mut self, supply: Supply, is_urgent: bool) -> bool {
        let tax = self.tax(is_urgent);
        let asked: u64 = self.claims.iter().map(|claim| claim.cap - claim.held).sum();
        let competing = asked > supply.usable();
        self.revoking = competing && (self.revoking || self.is_worth_it(is_urgent));
        if !self.revoking {
            for claim in &mut self.claims {
                claim.floor = claim.held;
            }
        }
        let total = (self.held() + supply.usable()).saturating_sub(supply.debt);
        let price = share_out(&self.claims, total, tax, &mut self.goals);
        self.limit(total, tax);
        let mut goals = self.goals.iter().zip(&self.claims);
        if goals.all(|(&goal, claim)| goal.abs_diff(claim.held) < (goal / NEAR_PART).max(BLOCK)) {
            self.revoking = false;
        }
        let members = self.members.iter().zip(&self.claims);
        let goals = self.goals.iter_mut().zip(&self.limits);
        for ((member, claim), (goal, limit)) in members.zip(goals) {
            let latitude = member.latitude;
            if *goal < claim.held {
                let lasting = Claim {
                    active: latitude.lasting,
                    ..*claim
                };
                let kept = lasting.at(price, tax).next_multiple_of(BLOCK);
                let keeps = latitude.keeps(claim, is_urgent);
                let least = match is_urgent {
                    _ if !self.revoking => claim.held,
                    true => keeps,
                    false => keeps.max(kept),
                };
                *goal = least.clamp(*goal, claim.held);
            } else if !latitude.may_grow {
                *goal = claim.held;
            } else {
                *goal = (*limit).clamp(claim.held, *goal);
            }
        }
        competing
    }

    /// What is idle counts for next to nothing while somebody is in trouble.
    fn tax(&self, is_urgent: bool) -> Tax {
        if is_urgent {
            Tax::TROUBLE
        } else {
            self.settings.tax
        }
    }

    /// How far each guest may grow now: who asks step by step is not to find that others have taken its part
    /// meanwhile, since what they were given they keep for a while.
    fn limit(&mut self, total: u64, tax: Tax) {
        let mut asks_on = false;
        for (member, claim) in self.members.iter().zip(&mut self.claims) {
            if claim.cap > claim.held && claim.cap < member.latitude.soon {
                claim.cap = member.latitude.soon;
                asks_on = true;
            }
        }
        if asks_on {
            share_out(&self.claims, total, tax, &mut self.limits);
        } else {
            let limits = self.limits.iter_mut().zip(&self.goals);
            limits.for_each(|(limit, goal)| *limit = *goal);
        }
    }

    /// Whether somebody who wants memory pays so much more for it than somebody who has some to give that it is
    /// worth a move.
    fn is_worth_it(&self, is_urgent: bool) -> bool {
        let (tax, percent) = (self.tax(is_urgent), self.settings.begin_percent);
        let members = self.members.iter().zip(&self.claims);
        let wanting = members
            .clone()
            .filter(|(member, claim)| member.latitude.may_grow && claim.cap > claim.held);
        let payer = wanting.fold(None, |most: Option<&Claim>, (_, claim)| match most {
            Some(most) if !claim.pays_more(most, 100, tax) => Some(most),
            _ => Some(claim),
        });
        payer.is_some_and(|payer| {
            let mut others = members;
            others.any(|(member, other)| {
                let least = other.floor.max(member.latitude.keeps(other, is_urgent));
                other.held >= least + BLOCK && payer.pays_more(other, percent, tax)
            })
        })
    }

    /// Goals when nobody wants more. False if there is nothing to do.
    fn refill(&mut self, supply: Supply) -> bool {
        if !self.refilling {
            return false;
        }
        for (member, claim) in self.members.iter().zip(&mut self.claims) {
            // Idle memory alone: what a guest uses is not taken to lie about.
            claim.active = member.latitude.lasting;
            claim.floor = claim.floor.max(claim.active.min(claim.held));
            let keeps = member.latitude.keeps(claim, false).min(claim.held);
            claim.floor = claim.floor.max(keeps);
        }
        let missing = supply.reserve.saturating_sub(supply.spare) + supply.debt;
        let total = self.held().saturating_sub(missing);
        share_out(&self.claims, total, self.settings.tax, &mut self.goals);
        true
    }

    fn held(&self) -> u64 {
        self.claims.iter().map(|claim| claim.held).sum()
    }

    /// Turns the goals into changes: as much at a time as a guest gives in a second, and no more promised
    /// than is there or being given. True if there is any change.
    fn apply(&mut self, now_us: u64, observed: &[Observed], supply: Supply) -> bool {
        let mut freed = 0;
        let mut asked = 0;
        let mut changed = false;
        let goals = self.goals.iter().zip(&self.claims);
        for ((member, seen), (&goal, claim)) in self.members.iter_mut().zip(observed).zip(goals) {
            let held = claim.held;
            if goal >= held + BLOCK {
                asked += goal - held;
            } else if goal + BLOCK <= held {
                // Within a block of its target a guest counts as there: it is to have more to do until the next look.
                let step = (member.response.speed() * supply.level.haste())
                    .next_multiple_of(BLOCK)
                    .max(2 * BLOCK);
                let memory = seen.memory_pages.min(MAX_PAGES);
                let target = goal.max(memory.saturating_sub(step));
                if target + BLOCK <= held {
                    member.send(target, false, now_us);
                    freed += held - target;
                    changed = true;
                }
            }
        }
        // In proportion, and block by block what rounding leaves over: what was taken for somebody gets there.
        let mut budget = (supply.usable() + freed).saturating_sub(supply.debt) / BLOCK * BLOCK;
        let mut asked = asked.max(1);
        let goals = self.goals.iter().zip(&self.claims);
        for (member, (&goal, claim)) in self.members.iter_mut().zip(goals) {
            if goal >= claim.held + BLOCK {
                let wanted = goal - claim.held;
                // At most 2^28 * 2^28.
                let part = (wanted * budget.min(asked))
                    .div_ceil(asked)
                    .next_multiple_of(BLOCK);
                let given = part.min(wanted / BLOCK * BLOCK).min(budget);
                budget -= given;
                asked = (asked - wanted).max(1);
                if given > 0 {
                    member.send(claim.held + given, true, now_us);
                    changed = true;
                }
            }
        }
        changed
    }

    /// Whether time alone changes nothing.
    fn is_settled(&self, now_us: u64) -> bool {
        let half_lives = self.settings.half_lives;
        let mut known = self.members.iter().filter_map(|m| m.activity.as_ref());
        known.all(|activity| activity.is_settled(now_us, half_lives))
    }

    /// When the next guest may be sent the other way.
    fn next_reversal(&self, now_us: u64) -> Option<u64> {
        let reversal_us = self.settings.reversal_us;
        let sent = self.members.iter().filter_map(|member| member.sent);
        sent.map(|sent| sent.at_us.saturating_add(reversal_us))
            .filter(|end| *end > now_us)
            .min()
    }
}

impl super::Member {
    /// It is in trouble.
    fn is_urgent(&self, now_us: u64) -> bool {
        self.activity
            .is_some_and(|activity| activity.is_urgent(now_us))
    }

    /// Until when it is not to be sent the other way, if it was sent `up` (or down) last; 0 if it was not.
    fn kept_until(&self, up: bool, reversal_us: u64) -> u64 {
        self.sent
            .filter(|sent| sent.up == up)
            .map_or(0, |sent| sent.at_us.saturating_add(reversal_us))
    }

    fn send(&mut self, target_pages: u64, up: bool, now_us: u64) {
        self.change = Some(target_pages);
        self.sent = Some(Sent {
            up,
            at_us: now_us,
            in_trouble: up && self.is_urgent(now_us),
        });
    }
}
