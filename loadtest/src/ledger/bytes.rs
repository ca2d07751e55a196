//! A ledger as bytes: what is alike is written once, numbers are as long as they need, and a digest at the end finds
//! what was cut or changed on the way.
//!
//! `TGL1`, missed, devices (name, boots (boot, runs (gap, length), digests of four bytes, runs of marks), works),
//! calls, digest of eight bytes. Numbers are LEB128; lists and texts begin with their length.

use std::sync::atomic::Ordering;

use super::book::{Book, Mark};
use super::commands::{self, Call, Work};
use super::{Ledger, Page, digest, lock};

const MAGIC: &[u8] = b"TGL1";
const CUT: &str = "it ends too early";
const BROKEN: &str = "it was changed on the way";
const STRANGE: &str = "it holds what no ledger does";

type Read<T> = Result<T, &'static str>;

pub(super) fn write(ledger: &Ledger) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    number(ledger.missed(), &mut out);
    let names = ledger.names();
    number(names.len() as u64, &mut out);
    for name in names {
        text(&name, &mut out);
        match ledger.page(&name) {
            Some(page) => write_page(&lock(&page), &mut out),
            None => write_page(&Page::default(), &mut out),
        }
    }
    let calls = lock(&ledger.calls);
    number(calls.len() as u64, &mut out);
    for (id, call) in calls.iter() {
        out.extend_from_slice(&id.to_le_bytes());
        out.extend_from_slice(&call.device.to_le_bytes());
        out.push(call.heard);
    }
    let seal = digest::bytes(&out);
    out.extend_from_slice(&seal.to_le_bytes());
    out
}

fn write_page(page: &Page, out: &mut Vec<u8>) {
    number(page.books.len() as u64, out);
    page.books.iter().for_each(|book| write_book(book, out));
    number(page.works.len() as u64, out);
    for (id, work) in &page.works {
        out.extend_from_slice(&id.to_le_bytes());
        out.extend_from_slice(&[work.received, work.attempt, work.runs, work.answers]);
        out.extend_from_slice(&work.answer.to_le_bytes());
    }
}

fn write_book(book: &Book, out: &mut Vec<u8>) {
    text(&book.boot, out);
    let (mut runs, mut marks) = (Vec::<(u64, u64)>::new(), Vec::<(u64, u64)>::new());
    let mut next = 0;
    for (seq, _, mark) in book.messages() {
        match runs.last_mut() {
            Some((_, len)) if seq == next => *len += 1,
            _ => runs.push((seq - next, 1)),
        }
        next = seq + 1;
        let told = u64::from(mark.0 & Mark::TOLD);
        match marks.last_mut() {
            Some((last, len)) if *last == told => *len += 1,
            _ => marks.push((told, 1)),
        }
    }
    pairs(&runs, out);
    book.messages().for_each(|(_, digest, _)| out.extend_from_slice(&digest.to_le_bytes()));
    pairs(&marks, out);
}

fn pairs(pairs: &[(u64, u64)], out: &mut Vec<u8>) {
    number(pairs.len() as u64, out);
    for (one, other) in pairs {
        number(*one, out);
        number(*other, out);
    }
}

fn text(text: &str, out: &mut Vec<u8>) {
    number(text.len() as u64, out);
    out.extend_from_slice(text.as_bytes());
}

fn number(mut number: u64, out: &mut Vec<u8>) {
    while number >= 128 {
        out.push(number as u8 | 128);
        number >>= 7;
    }
    out.push(number as u8);
}

pub(super) fn read(bytes: &[u8]) -> Read<Ledger> {
    let (bytes, seal) = bytes.split_last_chunk::<8>().ok_or(CUT)?;
    let mut input = Input(bytes.strip_prefix(MAGIC).ok_or("it is of another version, or no ledger at all")?);
    if digest::bytes(bytes).to_le_bytes() != *seal {
        return Err(BROKEN);
    }
    let ledger = Ledger::new();
    ledger.bound.missed.store(input.number()?, Ordering::Relaxed);
    for _ in 0..input.number()? {
        let name = input.text()?;
        let page = read_page(&mut input)?;
        ledger.bound.took(0, page.bytes());
        let (tenant, device) = name.split_once('/').ok_or(STRANGE)?;
        *lock(&ledger.device(tenant, device).page) = page;
    }
    let mut calls = lock(&ledger.calls);
    for _ in 0..input.number()? {
        let id = u128::from_le_bytes(input.array()?);
        let device = u64::from_le_bytes(input.array()?);
        let [heard] = input.array()?;
        calls.insert(id, Call { device, heard });
    }
    ledger.bound.took(0, commands::map_bytes(&calls));
    drop(calls);
    if input.0.is_empty() { Ok(ledger) } else { Err(STRANGE) }
}

fn read_page(input: &mut Input<'_>) -> Read<Page> {
    let mut page = Page::default();
    for _ in 0..input.number()? {
        page.books.push(read_book(input)?);
    }
    page.books.shrink_to_fit();
    for _ in 0..input.number()? {
        let id = u128::from_le_bytes(input.array()?);
        let [received, attempt, runs, answers] = input.array()?;
        let answer = u32::from_le_bytes(input.array()?);
        page.works.insert(id, Work { received, attempt, runs, answers, answer });
    }
    Ok(page)
}

fn read_book(input: &mut Input<'_>) -> Read<Book> {
    let mut book = Book::new(input.text()?);
    let runs = input.pairs()?;
    let count = runs.iter().try_fold(0_u64, |sum, (_, len)| sum.checked_add(*len)).ok_or(STRANGE)?;
    let bytes = usize::try_from(count).ok().and_then(|count| count.checked_mul(4)).ok_or(STRANGE)?;
    let digests = input.take(bytes)?;
    let marks = input.pairs()?;
    if marks.iter().try_fold(0_u64, |sum, (_, len)| sum.checked_add(*len)) != Some(count) {
        return Err(STRANGE);
    }
    book.reserve(count as usize);
    let mut marks = marks.into_iter().flat_map(|(mark, len)| (0..len).map(move |_| Mark(mark as u16 & Mark::TOLD)));
    let (mut words, _) = digests.as_chunks::<4>();
    let mut next = 0_u64;
    for (gap, len) in runs {
        let first = next.checked_add(gap).ok_or(STRANGE)?;
        next = first.checked_add(len).ok_or(STRANGE)?;
        for seq in first..next {
            let (Some((word, rest)), Some(mark)) = (words.split_first(), marks.next()) else { return Err(STRANGE) };
            words = rest;
            book.take(seq, u32::from_le_bytes(*word), mark);
        }
    }
    Ok(book)
}

/// What was not read yet.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, count: usize) -> Read<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(CUT)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Read<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk::<N>().ok_or(CUT)?;
        self.0 = rest;
        Ok(*taken)
    }

    fn number(&mut self) -> Read<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let [byte] = self.array()?;
            number |= u64::from(byte & 127) << shift;
            if byte < 128 {
                return Ok(number);
            }
        }
        Err(STRANGE)
    }

    fn text(&mut self) -> Read<&'a str> {
        let len = usize::try_from(self.number()?).map_err(|_| CUT)?;
        std::str::from_utf8(self.take(len)?).map_err(|_| STRANGE)
    }

    fn pairs(&mut self) -> Read<Vec<(u64, u64)>> {
        // Each takes two bytes at least: what is announced beyond that ends early, and reserves nothing.
        let mut pairs = Vec::new();
        for _ in 0..self.number()? {
            pairs.push((self.number()?, self.number()?));
        }
        Ok(pairs)
    }
}
