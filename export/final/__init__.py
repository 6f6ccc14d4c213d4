"""Stage `final`: the model that is served, trained once more on all events after another one was measured."""
