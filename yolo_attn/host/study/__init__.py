"""One trial of a study in Ultralytics: paired by seed, resumed to the bit, judged with both mAPs."""
