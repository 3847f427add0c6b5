//! Structs of counts that know the names of what they count: a kind that never occurred proves nothing.

/// A struct of counts with `add`, `iter` and `missing`.
macro_rules! counts {
    ($(#[doc = $about:literal])+ $struct:ident { $($(#[doc = $doc:literal])+ $name:ident,)+ }) => {
        $(#[doc = $about])+
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct $struct {
            $($(#[doc = $doc])+ pub $name: u64,)+
        }

        impl $struct {
            /// Adds another run's.
            pub fn add(&mut self, other: &Self) {
                $(self.$name += other.$name;)+
            }

            /// Every count by name.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name)),+].into_iter()
            }

            /// The names of those that never occurred.
            #[must_use]
            pub fn missing(&self) -> Vec<&'static str> {
                self.iter().filter(|row| row.1 == 0).map(|row| row.0).collect()
            }
        }
    };
}
pub(super) use counts;
