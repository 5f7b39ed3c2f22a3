"""What results say: study designs, significance, compared arms, the tables of a study."""
