"""The commands furl-fit, furl-eval, furl-probe, furl-report and furl-oracle."""
