"""The paper's tables, trained again on scenes whose truth is known."""
