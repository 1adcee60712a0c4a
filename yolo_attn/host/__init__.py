"""The only room that knows Ultralytics: start-up hook, patches, model rows, model and data names, COCO data."""
