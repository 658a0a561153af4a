//! The crash and fault matrix of fleet, a test a row: the real program, a real server, and EC2 through the real SDK.
//!
//! | row | what happens | what has to be so afterwards |
//! |---|---|---|
//! | C1 | killed before the intent is durable | nothing launched, nothing recorded |
//! | C2 | the intent is durable, nothing is sent | sent once, or closed if nobody wants it |
//! | C3 | sent, and lost on the way | sent again, launched once |
//! | C4 | launched, and the answer is lost | the same machines again, no second fleet |
//! | C5 | killed with the answer in hand | as C4 |
//! | C6 | restarted when it is too late to send again | adopted by tag or ended; the launch is closed |
//! | C7 | the token is refused for another request | said as a bug, no new token, the sweep decides |
//! | C8 | a leader that lost its lease in the call | its launch is found, its write fails |
//! | C9 | listings that show nothing, or the past | no second launch, nobody is an orphan |
//! | C10 | an end that takes long, or is not found | asked again until a listing shows it |
//! | C11 | one bad id among those to end | the others end |
//! | C12 | three of ten, with mixed errors | three kept, seven bought elsewhere, once |
//! | C13 | no place under the cap, no quota, no rights | blocked with a reason, no hot loop, an alarm |
//! | C14 | all machines are taken at once, unannounced | tasks come again, machines are replaced, counts are right |
//! | C15 | a machine that never says hello | ended at the boot limit, its place is left alone |
//! | C16 | NATS is down, the cloud throttles | no launches; what has expired ends |
//! | C17 | fleet is dead for ever | the machine's own timer, then the reaper: nothing is left |
//! | C18 | a stranger with a similar name | never touched |
//! | C19 | clocks that are ten minutes apart | deadlines go by the cloud's |

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops here")]

mod ends;
mod launches;
mod market;
mod strangers;
