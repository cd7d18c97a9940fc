//! The data of a job whose memory can neither be shared, compressed nor guessed: a pseudo-random stream, and a
//! checksum over it that the host works out on its own.
#![forbid(unsafe_code)]

/// Words of 64 bits in one MiB.
pub const WORDS_PER_MIB: usize = (1 << 20) / 8;

/// A stream of pseudo-random words (SplitMix64: Steele, Lea and Flood, 2014).
#[derive(Clone, Debug)]
pub struct Stream(u64);

impl Stream {
    /// The stream of this seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }
}

impl Iterator for Stream {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Some(word ^ (word >> 31))
    }
}

/// Words of 64 bits in a page of 4 KiB.
const WORDS_PER_PAGE: usize = 4096 / 8;

/// Memory whose pages are visited: each in turn at first, then at random. Half of each page is noise and half zero,
/// so that it can be compressed to about a half.
#[derive(Debug)]
pub struct WorkingSet {
    words: Vec<u64>,
    pages: usize,
    noise: Stream,
    order: Stream,
    seed: u64,
}

impl WorkingSet {
    /// `mib` MiB, none of them touched yet; the same seed gives the same visits.
    pub fn new(mib: usize, seed: u64) -> Self {
        let pages = mib.max(1) * WORDS_PER_MIB / WORDS_PER_PAGE;
        Self {
            words: Vec::with_capacity(pages * WORDS_PER_PAGE),
            pages,
            noise: Stream::new(seed),
            order: Stream::new(!seed),
            seed,
        }
    }

    /// Makes the next page, or reads the whole of one and changes it; false if it is not as it was left.
    pub fn visit(&mut self) -> bool {
        let made = self.words.len() / WORDS_PER_PAGE;
        if made < self.pages {
            // What a visit expects: the page's number, and the sum of the rest once it has been visited.
            self.words.extend([made as u64 ^ self.seed, 0]);
            let noise = self.noise.by_ref().take(WORDS_PER_PAGE / 2 - 2);
            self.words.extend(noise);
            self.words.resize((made + 1) * WORDS_PER_PAGE, 0);
            return true;
        }
        let page = self.order.next().unwrap_or(0) as usize % self.pages;
        let words = &mut self.words[page * WORDS_PER_PAGE..][..WORDS_PER_PAGE];
        let sum = words[2..]
            .iter()
            .fold(0_u64, |sum, word| sum.rotate_left(1) ^ word);
        // 0: not visited yet.
        let sum = sum.max(1);
        let is_sound = words[0] == page as u64 ^ self.seed && [0, sum].contains(&words[1]);
        words[1] = sum;
        is_sound
    }
}

/// A checksum in which order and every bit count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checksum(u64);

impl Checksum {
    /// Adds words.
    pub fn add(&mut self, words: impl IntoIterator<Item = u64>) {
        for word in words {
            self.0 = (self.0.rotate_left(7) ^ word).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    /// The checksum of `mib` MiB of the stream of `seed`, without keeping them.
    pub fn expected(mib: usize, seed: u64) -> Self {
        let mut sum = Self::default();
        sum.add(Stream::new(seed).take(mib * WORDS_PER_MIB));
        sum
    }
}

impl core::fmt::Display for Checksum {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_working_set_notices_a_page_that_changed() {
        let mut set = WorkingSet::new(1, 3);
        assert!((0..2000).all(|_| set.visit()));
        let mut lost = WorkingSet::new(1, 3);
        assert!((0..2000).all(|_| lost.visit()));
        lost.words[100 * WORDS_PER_PAGE + 7] ^= 1;
        assert!(!(0..2000).all(|_| lost.visit()));
        let zeros = set.words.iter().filter(|word| **word == 0).count();
        assert!(zeros >= WORDS_PER_MIB / 2);
    }

    #[test]
    fn a_changed_or_swapped_word_changes_the_sum() {
        let words: Vec<u64> = Stream::new(1).take(100).collect();
        let sum = |words: &[u64]| {
            let mut sum = Checksum::default();
            sum.add(words.iter().copied());
            sum
        };
        let whole = sum(&words);
        let mut changed = words.clone();
        changed[50] ^= 1;
        assert_ne!(sum(&changed), whole);
        let mut swapped = words.clone();
        swapped.swap(3, 4);
        assert_ne!(sum(&swapped), whole);
        assert_eq!(Checksum::expected(0, 1), Checksum::default());
    }
}
