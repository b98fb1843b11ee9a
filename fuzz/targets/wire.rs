//! Headers and frames of a substream: what is read is bounded, and what was understood reads the same when written
//! again.
#![no_main]

use faultline_fuzz::{Peer, run};
use faultline_guest::wire::{Frame, MAX_FRAME, Request, Response, read_header, write_header};
use libfuzzer_sys::fuzz_target;

async fn again<T>(value: T)
where
    T: serde::Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug,
{
    let mut bytes = Vec::new();
    // Escapes make it longer; then it is refused, which is as good.
    if write_header(&mut bytes, &value).await.is_ok() {
        assert_eq!(
            read_header::<T>(&mut bytes.as_slice()).await.unwrap(),
            value
        );
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((&step, data)) = data.split_first() else {
        return;
    };
    run(async {
        let peer = || Peer::new(data, step.into());
        if let Ok(request) = read_header::<Request>(&mut peer()).await {
            again(request).await;
        }
        if let Ok(response) = read_header::<Response>(&mut peer()).await {
            again(response).await;
        }
        let mut frames = peer();
        while let Ok(Some(frame)) = Frame::read(&mut frames).await {
            if let Frame::Stdin(bytes) | Frame::Stdout(bytes) | Frame::Stderr(bytes) = &frame {
                assert!(bytes.len() <= MAX_FRAME);
            }
            let mut bytes = Vec::new();
            frame.write(&mut bytes).await.unwrap();
            assert_eq!(
                Frame::read(&mut bytes.as_slice()).await.unwrap(),
                Some(frame)
            );
        }
    });
});
