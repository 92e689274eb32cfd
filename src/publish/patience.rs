//! What must go through in the end, tried until it does.

use std::fmt::Display;
use std::time::Duration;
use tokio::time::sleep;

/// Goes on until an attempt comes through; a reason why one did not is told when it is another than the last.
pub async fn until_through<T, E: Display>(
    pause: Duration,
    mut attempt: impl AsyncFnMut() -> Result<T, E>,
    mut tell: impl FnMut(&str),
) -> T {
    let mut told = String::new();
    loop {
        let why = match attempt().await {
            Ok(done) => return done,
            Err(error) => format!("{error:#}"),
        };
        if why != told {
            tell(&why);
            told = why;
        }
        sleep(pause).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_is_tried_until_it_is_through_and_each_reason_is_told_once() {
        let (mut left, mut told) = (vec!["hung up", "refused", "refused", "refused"], Vec::new());
        let attempt = async || match left.pop() {
            Some(why) => Err(why),
            None => Ok(7),
        };
        let done = until_through(Duration::from_millis(1), attempt, |why| told.push(why.to_owned())).await;
        assert_eq!((done, told), (7, vec!["refused".to_owned(), "hung up".to_owned()]));
    }
}
