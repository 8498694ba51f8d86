//! The findings of a self-check, in words for the log and as values for gauges.

use std::fmt;

/// The subject of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Check {
    /// Keycloak gives the gateway a token of its own: client, signing key, reachability.
    ServiceToken,
    /// That token carries the needed roles, and no others.
    Roles,
    /// The realm names the issuer that follows from the configuration.
    Issuer,
    /// The clocks of the gateway and of Keycloak agree.
    Clock,
    /// The realm keeps the events that show revocations.
    Events,
    /// Only administrators can write the attributes that hold keys.
    UserProfile,
}

impl Check {
    /// All checks, in the order in which they are told.
    pub const ALL: [Self; 6] = [
        Self::ServiceToken,
        Self::Roles,
        Self::Issuer,
        Self::Clock,
        Self::Events,
        Self::UserProfile,
    ];

    /// Its name in logs and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ServiceToken => "service_token",
            Self::Roles => "roles",
            Self::Issuer => "issuer",
            Self::Clock => "clock",
            Self::Events => "events",
            Self::UserProfile => "user_profile",
        }
    }
}

/// The result of a check.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum State {
    /// No result: not checked yet, or another finding prevents the check.
    #[default]
    Unchecked,
    /// As it should be.
    Good,
    /// Keys work, but an operator should look at something.
    Warning(String),
    /// Keys do not work, or more works than should, or that is unknown.
    Bad(String),
}

/// The level of a line in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// All is well.
    Info,
    /// [`State::Warning`].
    Warning,
    /// [`State::Bad`].
    Error,
}

impl State {
    /// Whether it is [`State::Bad`].
    #[must_use]
    pub const fn is_bad(&self) -> bool {
        matches!(self, Self::Bad(_))
    }
}

/// The findings of one self-check: a state for each [`Check`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Findings {
    service_token: State,
    roles: State,
    issuer: State,
    clock: State,
    events: State,
    user_profile: State,
}

impl Findings {
    /// The result of a check.
    #[must_use]
    pub const fn of(&self, check: Check) -> &State {
        match check {
            Check::ServiceToken => &self.service_token,
            Check::Roles => &self.roles,
            Check::Issuer => &self.issuer,
            Check::Clock => &self.clock,
            Check::Events => &self.events,
            Check::UserProfile => &self.user_profile,
        }
    }

    pub(crate) const fn of_mut(&mut self, check: Check) -> &mut State {
        match check {
            Check::ServiceToken => &mut self.service_token,
            Check::Roles => &mut self.roles,
            Check::Issuer => &mut self.issuer,
            Check::Clock => &mut self.clock,
            Check::Events => &mut self.events,
            Check::UserProfile => &mut self.user_profile,
        }
    }

    /// Each check with its result.
    pub fn iter(&self) -> impl Iterator<Item = (Check, &State)> {
        Check::ALL.map(|check| (check, self.of(check))).into_iter()
    }

    /// Whether a check is bad.
    #[must_use]
    pub fn any_bad(&self) -> bool {
        self.iter().any(|(_, state)| state.is_bad())
    }

    /// One line for each finding, with its level; without findings, one line that says so.
    #[must_use]
    pub fn lines(&self) -> Vec<(Severity, String)> {
        let mut lines = Vec::new();
        let mut good = Vec::new();
        for (check, state) in self.iter() {
            let (severity, text) = match state {
                State::Unchecked => continue,
                State::Good => {
                    good.push(check.name());
                    continue;
                }
                State::Warning(text) => (Severity::Warning, text),
                State::Bad(text) => (Severity::Error, text),
            };
            lines.push((severity, format!("self-check: {}: {text}", check.name())));
        }
        if lines.is_empty() {
            let line = format!("self-check: all is well: {}", good.join(", "));
            lines.push((Severity::Info, line));
        }
        lines
    }

    /// Whether these findings hold news over the others. The difference of the clocks changes a
    /// little each time.
    pub(super) fn differ(&self, other: &Self) -> bool {
        let same = |(check, state): (Check, &State)| {
            let told = other.of(check);
            let kind = std::mem::discriminant(state) == std::mem::discriminant(told);
            kind && (check == Check::Clock || state == told)
        };
        !self.iter().all(same)
    }
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines = self.lines().into_iter().map(|(_, line)| line);
        f.write_str(&lines.collect::<Vec<_>>().join("\n"))
    }
}
