//! Putting objects after those they stand on.

use std::collections::{BTreeMap, BTreeSet};

/// A schema and a name.
type Name = (String, String);

/// The same objects, each after those it uses. Objects in a circle, which only broken views can form, come last.
pub(super) fn by_use(objects: Vec<Name>, uses: &[(Name, Name)]) -> Vec<Name> {
    let known: BTreeSet<&Name> = objects.iter().collect();
    let mut waits: BTreeMap<&Name, usize> = BTreeMap::new();
    let mut users: BTreeMap<&Name, Vec<&Name>> = BTreeMap::new();
    let distinct: BTreeSet<&(Name, Name)> = uses.iter().collect();
    for (user, used) in distinct {
        if user != used && known.contains(user) && known.contains(used) {
            *waits.entry(user).or_default() += 1;
            users.entry(used).or_default().push(user);
        }
    }
    let mut ready: BTreeSet<&Name> = objects.iter().filter(|name| !waits.contains_key(name)).collect();
    let mut ordered = Vec::with_capacity(objects.len());
    while let Some(next) = ready.pop_first() {
        ordered.push(next.clone());
        for user in users.remove(next).unwrap_or_default() {
            if let Some(left) = waits.get_mut(user) {
                *left -= 1;
                if *left == 0 {
                    waits.remove(user);
                    ready.insert(user);
                }
            }
        }
    }
    ordered.extend(objects.iter().filter(|name| waits.contains_key(name)).cloned());
    ordered
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        ("s".to_owned(), text.to_owned())
    }

    #[test]
    fn a_view_comes_after_the_views_it_uses() {
        let objects = vec![name("a"), name("b"), name("c"), name("d")];
        let uses = vec![
            (name("a"), name("b")),
            (name("b"), name("d")),
            (name("a"), name("d")),
            (name("c"), name("table")),
            (name("a"), name("b")),
        ];
        assert_eq!(by_use(objects, &uses), vec![name("c"), name("d"), name("b"), name("a")]);
    }

    #[test]
    fn views_in_a_circle_are_kept() {
        let objects = vec![name("a"), name("b"), name("c")];
        let uses = vec![(name("a"), name("b")), (name("b"), name("a"))];
        assert_eq!(by_use(objects, &uses), vec![name("c"), name("a"), name("b")]);
    }
}
