//! How many of an answer's units its reasoning took.

use stoa_verify::{Content, reasoning};

/// Units up to the end of the reasoning that an answer begins with, by the length of units and text after each delta. 0 where there is
/// none, and where nothing tells: a delta may hold the end of it and more, and what was judged as a whole comes at once.
pub(super) fn units(content: &Content, marks: &[(usize, usize)]) -> u64 {
    let Some((before, behind)) = reasoning::end(&content.text) else {
        return 0;
    };
    if before == behind {
        let nothing_else = content.tool_calls.is_empty();
        return if nothing_else {
            content.output_units
        } else {
            0
        };
    }
    let at = marks.partition_point(|(_, bytes)| *bytes < behind);
    let last = at.checked_sub(1).and_then(|at| marks.get(at)).copied();
    let told = match (last, marks.get(at).copied()) {
        (_, Some((units, bytes))) if bytes == behind => units,
        // The mark came with what follows: another's server sets reasoning apart without it.
        (Some((units, bytes)), _) if bytes == before => units,
        // One unit is the end of the mark and the begin of the rest.
        (Some((one_less, bytes)), Some((units, _))) if bytes > before && units == one_less + 1 => {
            units
        }
        _ => 0,
    };
    (told as u64).min(content.output_units)
}

#[cfg(test)]
mod tests {
    use super::*;
    use stoa_types::FinishReason;
    use stoa_verify::ToolCall;

    /// An answer that came in deltas of so many units with so much text.
    fn counted(deltas: &[(usize, &str)], calls: usize) -> u64 {
        let (mut text, mut units_so_far, mut marks) = (String::new(), 0, Vec::new());
        for (units, more) in deltas {
            text.push_str(more);
            units_so_far += units;
            marks.push((units_so_far, text.len()));
        }
        let call = ToolCall {
            name: "now".to_owned(),
            arguments: "{}".to_owned(),
        };
        let content = Content {
            text,
            tool_calls: vec![call; calls],
            finish_reason: FinishReason::Stop,
            input_units: 1,
            output_units: units_so_far as u64,
        };
        units(&content, &marks)
    }

    #[test]
    fn units_of_reasoning_are_told_where_a_delta_ends_with_it_and_not_guessed() {
        for (deltas, calls, expected) in [
            // A model that writes the marks itself.
            (
                &[(1, "<think>"), (5, "a b"), (1, "</think>"), (3, "c")][..],
                0,
                7,
            ),
            (
                &[(6, "<think>a b"), (2, "</"), (1, "think>"), (3, "c")],
                0,
                9,
            ),
            (&[(6, "<think>a b</"), (1, "think>\n"), (3, "c")], 0, 7),
            // Another's server that sets reasoning apart.
            (&[(6, "<think>a b"), (3, "</think>c d"), (1, "e")], 0, 6),
            (&[(6, "<think>a b"), (0, ""), (3, "</think>c d")], 1, 6),
            // Nothing but reasoning.
            (&[(6, "<think>a b"), (2, "</thi")], 0, 8),
            (&[(6, "<think>a b"), (2, "")], 1, 0),
            // What a delta mixes, or what is told at once, cannot be told apart.
            (&[(9, "<think>a b</think>c")], 0, 0),
            (&[(6, "<think>a b</"), (2, "think>\n"), (3, "c")], 0, 0),
            (&[(8, ""), (1, "<think>a b</think>{}")], 0, 0),
            // None.
            (&[(3, "c"), (6, "<think>a b</think>")], 0, 0),
            (&[(2, "<think></think>"), (3, "c")], 0, 0),
            (&[], 0, 0),
        ] {
            assert_eq!(counted(deltas, calls), expected, "{deltas:?}");
        }
    }
}
