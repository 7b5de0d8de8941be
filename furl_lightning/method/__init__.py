"""The paper: aligned reward, success memory, relay, and the learner that they make up."""
