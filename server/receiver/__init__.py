"""The receiver of callbacks: its application and its database."""
