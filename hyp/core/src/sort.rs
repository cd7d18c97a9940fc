//! Sorting short lists, at boot.
//!
//! The library's sorts are some kilobytes for each type that is sorted. What boot sorts is as long as a board
//! has devices or a configuration has guests, and mostly sorted already.

/// Sorts by what comes before what, stably. Takes as many steps as there are pairs in the wrong order.
pub fn by<T>(items: &mut [T], is_before: impl Fn(&T, &T) -> bool) {
    for end in 1..items.len() {
        let mut at = end;
        while let Some([before, item]) = items.get_mut(at.wrapping_sub(1)..=at)
            && is_before(item, before)
        {
            core::mem::swap(before, item);
            at = at.wrapping_sub(1);
        }
    }
}

/// Sorts by `key`, as [`by`].
pub fn by_key<T, K: Ord>(items: &mut [T], key: impl Fn(&T) -> K) {
    by(items, |one, two| key(one) < key(two));
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn as_the_library_does(mut items: Vec<(u8, u32)>) {
            let mut expected = items.clone();
            expected.sort_by_key(|item| item.0);
            by_key(&mut items, |item| item.0);
            prop_assert_eq!(items, expected);
        }
    }
}
