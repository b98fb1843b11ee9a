use proptest::prelude::*;

use super::*;

fn split(bytes: &[u8]) -> (Vec<u8>, Vec<Vec<u8>>) {
    let (mut shown, mut queries) = (Vec::new(), Vec::new());
    for piece in Splitter::default().split(bytes) {
        match piece {
            Piece::Shown(bytes) => shown.extend(bytes),
            Piece::Query(bytes) => queries.push(bytes.to_vec()),
        }
    }
    (shown, queries)
}

#[test]
fn queries_are_separated() {
    let queries: [&[u8]; 27] = [
        b"\x1b[c",
        b"\x1b[0c",
        b"\x1b[>c",
        b"\x1b[=c",
        b"\x1bZ",
        b"\x1b[5n",
        b"\x1b[6n",
        b"\x1b[?6n",
        b"\x1b[?996n",
        b"\x1b[?2004$p",
        b"\x1b[4$p",
        b"\x1b[>q",
        b"\x1b[>0q",
        b"\x1b[?u",
        b"\x1b[?4m",
        b"\x1b[14t",
        b"\x1b[18t",
        b"\x1b]10;?\x07",
        b"\x1b]11;?\x1b\\",
        b"\x1b]4;1;?\x1b\\",
        b"\x1b]52;c;?\x07",
        b"\x1bP$qm\x1b\\",
        b"\x1bP1$qm\x1b\\",
        b"\x1bP+q544e\x1b\\",
        b"\xc2\x9bc",
        b"\xc2\x9d11;?\xc2\x9c",
        b"\x1b[\r6n",
    ];
    for query in queries {
        let text = [b"before ", query, b" after"].concat();
        let (shown, found) = split(&text);
        assert_eq!(shown, b"before  after", "{query:?}");
        assert_eq!(found, [query], "{query:?}");
    }
}

#[test]
fn other_sequences_are_shown() {
    let rest: [&[u8]; 15] = [
        b"\x1b[31mred\x1b[m",
        b"\x1b[?1049h\x1b[2J\x1b[H",
        b"\x1b[?2004h",
        b"\x1b[?1;2c",
        b"\x1b[>4;1m",
        b"\x1b[22;0;0t",
        b"\x1b[!p",
        b"\x1b[2 q",
        b"\x1b]0;a title?\x07",
        b"\x1b]0;?\x07",
        b"\x1b]11;#000000\x07",
        b"\x1b(B\x1b7\x1b8\x1b=",
        b"\x1bPq#0;2;0;0;0\x1b\\",
        "£ und Ä".as_bytes(),
        b"\x1b[6\x18n",
    ];
    for text in rest {
        assert_eq!(split(text), (text.to_vec(), vec![]), "{text:?}");
    }
}

#[test]
fn a_string_ends_where_another_sequence_begins() {
    let (shown, found) = split(b"\x1b]11;?\x1b[31mred");
    assert_eq!(shown, b"\x1b[31mred");
    assert_eq!(found, [b"\x1b]11;?"]);
}

#[test]
fn long_strings_are_not_held_back() {
    let mut splitter = Splitter::default();
    let picture = [b"\x1bPq".to_vec(), vec![b'~'; 3 * LONGEST]].concat();
    let shown = match splitter.split(&picture).as_slice() {
        [Piece::Shown(bytes)] => bytes.len(),
        other => panic!("{other:?}"),
    };
    assert!(shown + LONGEST >= picture.len());
    splitter.split(b"\x1b\\");
    assert_eq!(
        splitter.split(b"\x1b[c"),
        [Piece::Query(Bytes::from_static(b"\x1b[c"))]
    );
}

#[test]
fn a_long_query_is_for_one_viewer_too() {
    let query = [
        b"\x1bP+q".to_vec(),
        b"544e;".repeat(LONGEST),
        b"\x1b\\".to_vec(),
    ]
    .concat();
    let (shown, found) = split(&[&query[..], b"after"].concat());
    assert_eq!(shown, b"after");
    assert_eq!(found.concat(), query);
}

fn joined(chunks: &[&[u8]]) -> Vec<Piece> {
    let mut splitter = Splitter::default();
    let mut joined: Vec<Piece> = Vec::new();
    for piece in chunks.iter().flat_map(|chunk| splitter.split(chunk)) {
        match (joined.last_mut(), piece) {
            (Some(Piece::Shown(so_far)), Piece::Shown(more)) => {
                *so_far = [&so_far[..], &more[..]].concat().into();
            }
            (_, piece) => joined.push(piece),
        }
    }
    joined
}

proptest! {
    #[test]
    fn nothing_is_lost_and_chunks_do_not_matter(
        parts in proptest::collection::vec(
            prop_oneof![
                proptest::collection::vec(any::<u8>(), 0..6),
                Just(b"\x1b".to_vec()), Just(b"\x1b[".to_vec()), Just(b"?".to_vec()), Just(b"6n".to_vec()),
                Just(b"\x1b]11;?".to_vec()), Just(b"\x07".to_vec()), Just(b"\x1b\\".to_vec()),
                Just(b"\xc2".to_vec()), Just(b"\x9b".to_vec()), Just(b"c".to_vec()),
            ],
            0..12,
        ),
    ) {
        // The last byte cancels any sequence in progress.
        let text = [parts.concat(), b"\x18".to_vec()].concat();
        let whole = joined(&[&text]);
        let single: Vec<&[u8]> = text.chunks(1).collect();
        prop_assert_eq!(&whole, &joined(&single));
        let all: Vec<u8> = whole
            .into_iter()
            .flat_map(|piece| match piece {
                Piece::Shown(bytes) | Piece::Query(bytes) => bytes,
            })
            .collect();
        prop_assert_eq!(all, text);
    }
}
