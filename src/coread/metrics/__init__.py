"""What a monitoring system is told of Coread, in Prometheus' form: numbers, and never of whom they are."""
