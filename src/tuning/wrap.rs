//! Prose in lines of a readable length.

use std::fmt;

/// Columns of a line, with what stands before it.
const COLUMNS_MAX: usize = 90;

/// Displays as `text` with its spaces turned into new lines where lines would be too long.
#[derive(Clone, Copy, Debug)]
pub struct Wrapped<'a> {
    /// What stands before the first line.
    pub first: &'a str,
    /// What stands before all others.
    pub rest: &'a str,
    /// The prose.
    pub text: &'a str,
}

impl fmt::Display for Wrapped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.first)?;
        let mut column = self.first.chars().count();
        for (index, word) in self.text.split_whitespace().enumerate() {
            let length = word.chars().count();
            if index == 0 {
                column += length;
            } else if column + 1 + length <= COLUMNS_MAX {
                f.write_str(" ")?;
                column += 1 + length;
            } else {
                write!(f, "\n{}", self.rest)?;
                column = self.rest.chars().count() + length;
            }
            f.write_str(word)?;
        }
        f.write_str("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_words_and_columns() {
        let check = |text: &str, expected: &str| {
            let (first, rest) = ("# Why: ", "# ");
            assert_eq!(Wrapped { first, rest, text }.to_string(), expected);
        };
        check("", "# Why: \n");
        check("so  be\nit", "# Why: so be it\n");
        let (long, longer) = ("a".repeat(40), "b".repeat(42));
        // 7 + 40 + 1 + 42 columns are 90, and one more is too much.
        check(
            &format!("{long} {longer}"),
            &format!("# Why: {long} {longer}\n"),
        );
        check(
            &format!("{long} b{longer}"),
            &format!("# Why: {long}\n# b{longer}\n"),
        );
        let endless = "c".repeat(200);
        check(&endless, &format!("# Why: {endless}\n"));
    }
}
