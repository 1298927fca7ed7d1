//! Which route a path belongs to.

mod table;
mod pattern;
mod matcher;
mod sieve;
mod syntax;
mod capture;

pub use self::capture::UnsafeCapture;
pub use self::pattern::Pattern;
pub use self::syntax::PatternError;
pub use self::table::{Matches, Table};
