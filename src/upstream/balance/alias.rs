//! Drawing by weight in constant time: the alias method of Walker, set up as Vose does (1991).

/// Members and how often each is drawn.
#[derive(Debug, Default)]
pub struct Alias {
    columns: Box<[Column]>,
}

/// A member, and who is taken in its place above `limit`.
#[derive(Clone, Copy, Debug)]
struct Column {
    limit: u32,
    member: u16,
    other: u16,
}

impl Alias {
    /// Of `(member, weight)`; a weight of 0 leaves the member out.
    pub fn new(choices: &[(u16, u32)]) -> Self {
        let choices: Vec<_> = choices.iter().filter(|(_, weight)| *weight > 0).collect();
        let total: f64 = choices.iter().map(|(_, weight)| f64::from(*weight)).sum();
        let count = choices.len() as f64;
        // Each column has room for 1; who needs less shares it with somebody who needs more.
        let mut needs: Vec<f64> = choices
            .iter()
            .map(|(_, weight)| f64::from(*weight) * count / total)
            .collect();
        let (mut small, mut large): (Vec<usize>, Vec<usize>) =
            (0..choices.len()).partition(|index| needs[*index] < 1.0);
        let mut columns: Vec<Column> = choices
            .iter()
            .map(|(member, _)| Column {
                limit: u32::MAX,
                member: *member,
                other: *member,
            })
            .collect();
        while let (Some(less), Some(more)) = (small.pop(), large.last().copied()) {
            columns[less].limit = (needs[less] * f64::from(u32::MAX)) as u32;
            columns[less].other = columns[more].member;
            needs[more] -= 1.0 - needs[less];
            if needs[more] < 1.0 {
                small.extend(large.pop());
            }
        }
        Self {
            columns: columns.into(),
        }
    }

    /// One member, by weight.
    pub fn draw(&self) -> Option<u16> {
        let random = fastrand::u64(..);
        // The upper half chooses the column, without the cost of a division.
        let column = ((random >> 32) * self.columns.len() as u64) >> 32;
        let column = self.columns.get(column as usize)?;
        Some(match random as u32 <= column.limit {
            true => column.member,
            false => column.other,
        })
    }

    /// Two members, each by weight, and not the same twice if there are two.
    pub fn draw_two(&self) -> Option<(u16, u16)> {
        let first = self.draw()?;
        for _ in 0..2 {
            let second = self.draw()?;
            if second != first {
                return Some((first, second));
            }
        }
        // One that is drawn nearly always: any other will do.
        let start = fastrand::usize(..self.columns.len());
        let (before, behind) = self.columns.split_at(start);
        let mut others = behind.iter().chain(before).map(|column| column.member);
        Some((first, others.find(|other| *other != first).unwrap_or(first)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_follow_the_weights() {
        let weights = [(0, 1), (1, 0), (2, 7), (3, 2), (4, 1000), (5, 90)];
        let alias = Alias::new(&weights);
        let mut drawn = [0f64; 6];
        for _ in 0..200_000 {
            if let Some(member) = alias.draw() {
                drawn[usize::from(member)] += 1.0;
            }
        }
        for (member, weight) in weights {
            let expected = f64::from(weight) * 200_000.0 / 1100.0;
            // Five standard deviations of a binomial.
            let bound = 5.0 * expected.sqrt();
            let drawn = drawn[usize::from(member)];
            assert!(
                (drawn - expected).abs() <= bound,
                "{member}: {drawn} {expected}"
            );
        }
    }

    #[test]
    fn two_are_different_if_there_are_two() {
        let alias = Alias::new(&[(3, 1_000_000), (9, 1)]);
        for _ in 0..1000 {
            let (first, second) = alias.draw_two().unwrap_or_default();
            assert_ne!(first, second);
        }
        assert_eq!(Alias::new(&[(7, 2)]).draw_two(), Some((7, 7)));
        assert_eq!(Alias::new(&[]).draw_two(), None);
        assert_eq!(Alias::new(&[(1, 0)]).draw(), None);
    }
}
