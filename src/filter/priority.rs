//! What part of a room each class of requests may fill.

use crate::config::model::Priority;

/// What a class is allowed less than the next more important one, in percent.
const STEP: u32 = 10;

/// How much of a limit a class may fill, where `top` is the most important one that there is. That one
/// has all of it: nothing is kept free for those who never come. Each class below has a tenth less.
/// Rounded up, so that a small limit is not halved.
pub fn share(limit: u32, class: Priority, top: Priority) -> u32 {
    let below = top.index().saturating_sub(class.index()) as u32;
    let percent = u64::from(100 - STEP * below);
    // Never more than the limit itself.
    (u64::from(limit) * percent).div_ceil(100) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use Priority::{Critical, High, Low, Normal};

    #[test]
    fn the_most_important_class_in_use_has_all_of_it() {
        assert_eq!(share(64, Normal, Normal), 64);
        assert_eq!(share(64, Low, Low), 64);
        assert_eq!(share(u32::MAX, Critical, Critical), u32::MAX);
        // A class that nobody reckoned with is held back no more than the top.
        assert_eq!(share(64, Critical, Normal), 64);
    }

    #[test]
    fn each_class_below_has_a_tenth_less() {
        let shares = [Low, Normal, High, Critical].map(|class| share(100, class, Critical));
        assert_eq!(shares, [70, 80, 90, 100]);
        assert_eq!(share(100, Low, Normal), 90);
        let small = [Low, Normal, High, Critical].map(|class| share(2, class, Critical));
        assert_eq!(small, [2, 2, 2, 2]);
        assert_eq!(share(1, Low, Critical), 1);
    }
}
