//! What the readers of several vendors have in common: when library and cards are looked for, what follows when a card
//! gets lost, and what numbers mean.
//!
//! A vendor is a [`Source`]; the [`Reader`] around it keeps the library and the cards. Library and cards are looked for
//! anew once a minute, and at once after a loss: numbers of cards may then be others'. After a loss the library is also
//! begun anew, as most list cards only then. Where a card is gone for good this changes nothing and may take seconds,
//! so new beginnings become rarer.

use std::time::Duration;

use super::{Vendor, VendorOptions, not_open};
use crate::abi::OpenError;
use crate::accelerators::readings::Readings;
use crate::accelerators::window::Window;
use crate::host_root::{HostRoot, first_word};
use crate::probe::{ProbeError, Tick};

/// How often library and cards are looked for.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// How often what changes slowly is asked for.
const SLOW_EVERY: Duration = Duration::from_secs(10);

/// Looks between two new beginnings, at the most.
const MAX_LOOKS: u32 = 16;

/// Cards looked at: beyond what any machine has.
pub(super) const MAX_CARDS: u32 = 256;

/// What stands between us and the cards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Obstacle {
    /// There is no driver, or no card.
    Absent(String),
    /// The driver is there and does not do its part.
    Driver(String),
    /// Library and driver do not fit each other: one of the two was replaced.
    Mismatch(String),
}

impl Obstacle {
    fn error(&self, library: &'static str) -> ProbeError {
        match self {
            Self::Absent(reason) => ProbeError::Absent(reason.clone()),
            Self::Driver(message) | Self::Mismatch(message) => ProbeError::Driver { library, message: message.clone() },
        }
    }
}

/// A vendor's library and how its cards are read.
pub(crate) trait Source: Sized {
    /// Its name in errors and events.
    const LIBRARY: &'static str;

    /// What is kept of a card between ticks.
    type Card;

    fn open(options: &VendorOptions) -> Result<Self, OpenError>;

    /// To be called first, and again after [`Source::shut_down`].
    fn initialize(&mut self) -> Result<(), Obstacle>;

    /// Gives up what was initialised, and these cards with it.
    fn shut_down(&mut self, cards: Vec<Self::Card>);

    /// The cards there are. Of those known, what is still the same is kept. One card's trouble is told in `trouble`.
    fn cards(&mut self, known: Vec<Self::Card>, trouble: &mut Option<String>) -> Result<Vec<Self::Card>, Obstacle>;

    /// Takes what the library has reported by itself since the tick before, of any card.
    fn hear(&mut self, _cards: &mut [Self::Card], _tick: &Tick, _out: &mut Readings) {}

    /// The rows of a card; false when it is lost. `slow` is true every ten seconds.
    fn sample(
        &mut self,
        card: &mut Self::Card,
        tick: &Tick,
        slow: bool,
        window: &mut Window,
        out: &mut Readings,
    ) -> bool;

    /// A card's load and power between two ticks.
    fn glance(&mut self, card: &Self::Card, window: &mut Window);
}

/// Keeps a source and its cards.
pub(crate) struct Reader<S: Source> {
    options: VendorOptions,
    source: Option<S>,
    cards: Vec<S::Card>,
    /// Cards lost since the library was begun.
    lost: Vec<S::Card>,
    obstacle: Option<Obstacle>,
    is_initialized: bool,
    look_now: bool,
    /// Something is not as it should be, so the library is begun anew at the next look.
    begin_anew: bool,
    /// Looks until then, and how many it was the last time.
    anew_in: u32,
    anew_after: u32,
    has_worked: bool,
    is_outdated: bool,
}

impl<S: Source> Reader<S> {
    /// Nothing is opened yet.
    pub(crate) fn new(options: VendorOptions) -> Self {
        Self {
            options,
            source: None,
            cards: Vec::new(),
            lost: Vec::new(),
            obstacle: None,
            is_initialized: false,
            look_now: true,
            begin_anew: false,
            anew_in: 0,
            anew_after: 0,
            has_worked: false,
            is_outdated: false,
        }
    }

    /// Opens and initialises the library if need be, and lists the cards.
    fn look(&mut self) -> Result<(), Obstacle> {
        let source = match &mut self.source {
            Some(source) => source,
            none => {
                let source = S::open(&self.options).map_err(|error| match not_open(S::LIBRARY, &error) {
                    ProbeError::Absent(reason) => Obstacle::Absent(reason),
                    _ => Obstacle::Driver(error.to_string()),
                })?;
                none.insert(source)
            }
        };
        self.anew_in = self.anew_in.saturating_sub(1);
        if self.begin_anew && self.is_initialized && self.anew_in == 0 {
            self.begin_anew = false;
            self.anew_after = (self.anew_after * 2).clamp(1, MAX_LOOKS);
            self.anew_in = self.anew_after;
            let mut cards = std::mem::take(&mut self.cards);
            cards.append(&mut self.lost);
            source.shut_down(cards);
            self.is_initialized = false;
        }
        if !self.is_initialized {
            if let Err(obstacle) = source.initialize() {
                // Once it has worked, it is the driver that has become another.
                self.is_outdated = self.has_worked && matches!(obstacle, Obstacle::Mismatch(_));
                return Err(obstacle);
            }
            self.is_initialized = true;
        }
        let mut trouble = None;
        match source.cards(std::mem::take(&mut self.cards), &mut trouble) {
            Ok(cards) => self.cards = cards,
            Err(obstacle) => {
                self.begin_anew = true;
                return Err(obstacle);
            }
        }
        match &trouble {
            Some(_) => self.begin_anew = true,
            None => (self.anew_in, self.anew_after) = (0, 0),
        }
        match trouble {
            // One card in trouble takes nothing from the others.
            _ if !self.cards.is_empty() => Ok(()),
            Some(message) => Err(Obstacle::Driver(message)),
            None => Err(Obstacle::Absent("the driver shows no card".to_owned())),
        }
    }
}

impl<S: Source> Vendor for Reader<S> {
    fn sample(&mut self, tick: &Tick, window: &mut Window, out: &mut Readings) -> Result<(), ProbeError> {
        if std::mem::take(&mut self.look_now) || tick.is_due(LOOK_EVERY) {
            self.obstacle = self.look().err();
        }
        if let Some(obstacle) = &self.obstacle {
            return Err(obstacle.error(S::LIBRARY));
        }
        let Some(source) = &mut self.source else { return Ok(()) };
        self.has_worked = true;
        source.hear(&mut self.cards, tick, out);
        let slow = tick.is_due(SLOW_EVERY);
        for mut card in std::mem::take(&mut self.cards) {
            if source.sample(&mut card, tick, slow, window, out) {
                self.cards.push(card);
            } else {
                self.lost.push(card);
                self.look_now = true;
                self.begin_anew = true;
            }
        }
        Ok(())
    }

    fn glance(&mut self, window: &mut Window) {
        let Some(source) = &mut self.source else { return };
        for card in &self.cards {
            source.glance(card, window);
        }
    }

    fn is_outdated(&self) -> bool {
        self.is_outdated
    }
}

/// What a library's codes mean to a reader.
pub(super) trait Answer: Copy {
    /// There is no such value here, which is no trouble.
    fn is_absence(self) -> bool;

    /// The card has gone.
    fn is_loss(self) -> bool;
}

/// Every library's codes say the same of themselves.
macro_rules! answers {
    ($($library:ident),*) => {
        $(impl Answer for crate::abi::$library::Code {
            fn is_absence(self) -> bool {
                self.is_absence()
            }

            fn is_loss(self) -> bool {
                self.is_loss()
            }
        })*
    };
}

answers!(cndev, dcmi, efml, mtml, mxsml, nvml);

impl Answer for crate::abi::rsmi::Code {
    fn is_absence(self) -> bool {
        self.is_absence()
    }

    /// It has no code for a card that has gone.
    fn is_loss(self) -> bool {
        false
    }
}

/// Keeps the first trouble beside the values that came.
#[derive(Debug)]
pub(super) struct Trouble<C>(Option<(&'static str, C)>);

impl<C> Default for Trouble<C> {
    fn default() -> Self {
        Self(None)
    }
}

impl<C: Answer> Trouble<C> {
    /// The value, if it came; an absence is no trouble.
    pub(super) fn keep<T>(&mut self, what: &'static str, answer: Result<T, C>) -> Option<T> {
        match answer {
            Ok(value) => Some(value),
            Err(code) => {
                if !code.is_absence() {
                    self.0.get_or_insert((what, code));
                }
                None
            }
        }
    }

    /// Whether the card has gone.
    pub(super) fn is_loss(&self) -> bool {
        self.0.is_some_and(|(_, code)| code.is_loss())
    }

    /// What it was, in words.
    pub(super) fn text(&self, describe: impl FnOnce(C) -> String) -> Option<String> {
        self.0.map(|(what, code)| format!("{what}: {}", describe(code)))
    }
}

/// Asks one card its questions: keeps the first trouble, and leaves out until the next look what the card does not have.
#[derive(Debug)]
pub(super) struct Asking<C> {
    absent: Vec<&'static str>,
    answers: u32,
    trouble: Option<(&'static str, C)>,
}

impl<C> Default for Asking<C> {
    fn default() -> Self {
        Self { absent: Vec::new(), answers: 0, trouble: None }
    }
}

impl<C: Answer> Asking<C> {
    pub(super) fn ask<T>(&mut self, what: &'static str, question: impl FnOnce() -> Result<T, C>) -> Option<T> {
        if self.absent.contains(&what) {
            return None;
        }
        match question() {
            Ok(answer) => {
                self.answers += 1;
                Some(answer)
            }
            Err(code) if code.is_absence() => {
                self.absent.push(what);
                None
            }
            Err(code) => {
                self.trouble.get_or_insert((what, code));
                None
            }
        }
    }

    /// A new tick begins.
    pub(super) fn begin(&mut self) {
        (self.trouble, self.answers) = (None, 0);
    }

    /// Whether the card has answered nothing so far in this tick, and was in trouble.
    pub(super) fn is_mute(&self) -> bool {
        self.answers == 0 && self.trouble.is_some()
    }

    /// What was absent may be there now.
    pub(super) fn forget(&mut self) {
        self.absent.clear();
    }

    /// Whether the card has turned out not to have this.
    pub(super) fn has_no(&self, what: &str) -> bool {
        self.absent.contains(&what)
    }

    pub(super) fn is_loss(&self) -> bool {
        self.trouble.as_ref().is_some_and(|(_, code)| code.is_loss())
    }

    /// The trouble, for the column `error`.
    pub(super) fn error(&self, describe: impl FnOnce(C) -> String) -> Option<String> {
        self.trouble.map(|(what, code)| format!("{what}: {}", describe(code)))
    }
}

/// Per cent as a share of one. More than a hundred is no share (fans may turn a little faster than their nominal most).
pub(super) fn share(percent: f64) -> Option<f64> {
    (0.0..=120.0).contains(&percent).then(|| (percent / 100.0).min(1.0))
}

/// Milliwatts as watts. No board draws a hundred kilowatts, and one that draws nothing at all is not measured.
pub(super) fn milliwatts(milliwatts: f64) -> Option<f64> {
    (milliwatts > 0.0 && milliwatts < 1e8).then_some(milliwatts / 1e3)
}

/// No chip lives at 200 °C, nor below the frosts of any machine room.
pub(super) fn celsius(degrees: f64) -> Option<f64> {
    (degrees > -60.0 && degrees < 200.0).then_some(degrees)
}

/// Megahertz as hertz. No clock has a hundred gigahertz.
pub(super) fn megahertz(megahertz: u32) -> Option<i64> {
    (megahertz < 100_000).then(|| i64::from(megahertz) * 1_000_000)
}

/// A small number such as a count of lanes; 0 and what no link has are not known.
pub(super) fn small(number: u32) -> Option<i64> {
    (1..=64).contains(&number).then(|| i64::from(number))
}

/// `0000:07:00.0`, from however the library writes it: upper case, a domain of eight digits, no domain.
pub(super) fn pci_address(text: &str) -> Option<String> {
    let (rest, function) = text.trim().rsplit_once('.')?;
    let mut parts = rest.rsplit(':');
    let (device, bus, domain) = (parts.next()?, parts.next()?, parts.next().unwrap_or("0"));
    if parts.next().is_some() {
        return None;
    }
    let number = |digits: &str| u32::from_str_radix(digits, 16).ok();
    pci_bdf(number(domain)?, number(bus)?, number(device)?, number(function)?)
}

/// The address of a function on the bus.
pub(super) fn pci_bdf(domain: u32, bus: u32, device: u32, function: u32) -> Option<String> {
    (bus <= 0xff && device <= 0x1f && function <= 7)
        .then(|| format!("{domain:04x}:{bus:02x}:{device:02x}.{function:x}"))
}

/// The NUMA node nearest to what has this address; `None` where the kernel knows none (-1).
pub(super) fn numa_node(root: &HostRoot, pci_bdf: Option<&str>) -> Option<i64> {
    let path = root.sys(format!("bus/pci/devices/{}/numa_node", pci_bdf?));
    first_word::<u32>(&std::fs::read_to_string(path).ok()?).map(i64::from)
}

#[cfg(test)]
mod tests {
    use nodescope_model::catalogue::Catalogue;
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone, Copy)]
    struct Code(u32);

    impl Answer for Code {
        fn is_absence(self) -> bool {
            self.0 == 3
        }

        fn is_loss(self) -> bool {
            self.0 == 15
        }
    }

    #[test]
    fn an_obstacle_is_looked_at_again_only_after_a_minute() {
        let directory = tempfile::tempdir().unwrap();
        let root = HostRoot::new(directory.path());
        let options = VendorOptions { root: root.clone(), library: Some(directory.path().join("libnone.so")) };
        let mut out = Readings::new(&Catalogue::built_in(), crate::accelerators::VendorId::Nvidia, root);
        let mut reader = super::super::nvidia::Nvidia::new(options);
        let mut window = Window::default();
        let mut at = |seconds: i64, out: &mut Readings| {
            let tick = Tick { ts_micros: seconds * 1_000_000, first: false };
            reader.sample(&tick, &mut window, out).unwrap_err().to_string()
        };
        let first = at(1, &mut out);
        assert!(first.contains("libnone.so"), "{first}");
        std::fs::write(directory.path().join("libnone.so"), "no library").unwrap();
        assert_eq!(at(2, &mut out), first);
        assert_ne!(at(60, &mut out), first);
    }

    #[test]
    fn what_a_card_does_not_have_is_asked_once_a_look() {
        let mut asking = Asking::default();
        assert_eq!(asking.ask("load", || Ok::<u32, Code>(7)), Some(7));
        assert_eq!(asking.ask("fan", || Err::<u32, _>(Code(3))), None);
        assert_eq!(asking.ask("fan", || -> Result<u32, Code> { unreachable!("asked again") }), None);
        assert!(!asking.is_loss() && asking.error(|_| String::new()).is_none());
        asking.forget();
        assert_eq!(asking.ask("fan", || Ok(1)), Some(1));
        asking.ask("power", || Err::<u32, _>(Code(9)));
        asking.ask("clock", || Err::<u32, _>(Code(15)));
        assert_eq!(asking.error(|code| code.0.to_string()).as_deref(), Some("power: 9"), "the first");
        asking.begin();
        asking.ask("clock", || Err::<u32, _>(Code(15)));
        assert!(asking.is_loss());
    }

    #[test]
    fn what_stands_for_not_known_is_none() {
        assert_eq!((share(37.0), share(104.0), share(-1.0), share(f64::NAN)), (Some(0.37), Some(1.0), None, None));
        assert_eq!((milliwatts(71_250.0), milliwatts(0.0), milliwatts(4e9)), (Some(71.25), None, None));
        assert_eq!(
            (celsius(54.5), celsius(-40.0), celsius(-274.0), celsius(1e9)),
            (Some(54.5), Some(-40.0), None, None)
        );
        assert_eq!((megahertz(1_500), megahertz(u32::MAX)), (Some(1_500_000_000), None));
        assert_eq!((small(16), small(0), small(u32::MAX)), (Some(16), None, None));
    }

    #[test]
    fn addresses_become_the_kernels() {
        assert_eq!(pci_address("0000:1A:00.0").as_deref(), Some("0000:1a:00.0"));
        assert_eq!(pci_address("00000000:C1:1f.7").as_deref(), Some("0000:c1:1f.7"));
        assert_eq!(pci_address(" 01:00.0 ").as_deref(), Some("0000:01:00.0"));
        assert_eq!(pci_address("10000:01:00.0").as_deref(), Some("10000:01:00.0"));
        for wrong in ["", "x", "0000:01:00", "0:0:0:0.0", "0000:100:00.0", "0000:01:20.0", "0000:01:00.8"] {
            assert_eq!(pci_address(wrong), None, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn no_text_or_number_brings_it_down(text in any::<String>(), number in any::<u32>(), float in any::<f64>()) {
            pci_address(&text);
            pci_bdf(number, number, number, number);
            megahertz(number);
            small(number);
            milliwatts(float);
            celsius(float);
            prop_assert!(share(float).is_none_or(|share| (0.0..=1.0).contains(&share)));
        }
    }
}
