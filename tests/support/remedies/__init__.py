"""The tables of advice: what meets a message, what it advises, and how that is followed."""
