//! The calls of `Ownership` that a wrapper in a test leaves as they are.

#![allow(unused_macros, unused_imports, reason = "each test file uses a part of it")]

/// Within `impl Ownership`: the named calls go to a field, whose own they are. Who uses it has the types of the seam in
/// scope.
macro_rules! pass_on {
    ($field:ident: $($call:ident)+) => { $( pass_on!(@ $call $field); )+ };
    (@ view $field:ident) => {
        fn view(&self) -> OwnershipFuture<'_, View> {
            self.$field.view()
        }
    };
    (@ renew $field:ident) => {
        fn renew<'a>(&'a self, me: &'a Profile, highest: Epoch) -> OwnershipFuture<'a, Renewed> {
            self.$field.renew(me, highest)
        }
    };
    (@ claim $field:ident) => {
        fn claim<'a>(&'a self, claim: &'a Claim<'a>) -> OwnershipFuture<'a, Claimed> {
            self.$field.claim(claim)
        }
    };
    (@ row $field:ident) => {
        fn row<'a>(&'a self, device: &'a DeviceKey) -> OwnershipFuture<'a, Option<Row>> {
            self.$field.row(device)
        }
    };
    (@ past $field:ident) => {
        fn past<'a>(&'a self, device: &'a DeviceKey) -> OwnershipFuture<'a, Option<Past>> {
            self.$field.past(device)
        }
    };
    (@ list $field:ident) => {
        fn list<'a>(&'a self, life: &'a NodeLife, stretch: Stretch<'a>) -> OwnershipFuture<'a, Listed> {
            self.$field.list(life, stretch)
        }
    };
    (@ reassert $field:ident) => {
        fn reassert<'a>(&'a self, life: &'a NodeLife, held: &'a Held) -> OwnershipFuture<'a, Reasserted> {
            self.$field.reassert(life, held)
        }
    };
    (@ inspect $field:ident) => {
        fn inspect<'a>(&'a self, life: &'a NodeLife, sample: &'a [Held]) -> OwnershipFuture<'a, Vec<Inspection>> {
            self.$field.inspect(life, sample)
        }
    };
    (@ primary_of $field:ident) => {
        fn primary_of(&self, device: &DeviceKey) -> String {
            self.$field.primary_of(device)
        }
    };
    (@ bury $field:ident) => {
        fn bury<'a>(&'a self, dead: &'a NodeLife, done: bool) -> OwnershipFuture<'a, bool> {
            self.$field.bury(dead, done)
        }
    };
    (@ settle $field:ident) => {
        fn settle<'a>(&'a self, dead: &'a NodeLife, after: Option<&'a DeviceKey>, limit: u32) -> OwnershipFuture<'a, Page> {
            self.$field.settle(dead, after, limit)
        }
    };
}

pub(crate) use pass_on;
